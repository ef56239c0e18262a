"""XMP: a picture's rating and its tags, as Lightroom, digiKam, Bridge and Windows write them, and its comment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

MOST_XMP = 2 << 20  # bytes of one packet
_XMP_RATING = "http://ns.adobe.com/xap/1.0/ Rating"
_XMP_SUBJECT = "http://purl.org/dc/elements/1.1/ subject"
_XMP_ORIENTATION = "http://ns.adobe.com/tiff/1.0/ Orientation"
_XMP_COMMENT = "http://ns.adobe.com/exif/1.0/ UserComment"
_XMP_ITEM = "http://www.w3.org/1999/02/22-rdf-syntax-ns# li"


@dataclass
class Marks:
    """A rating, 1 to 5 or None, tags in their order, a comment, "" where there is none, and how the picture lies, as EXIF
    says it."""

    rating: int | None = None
    tags: tuple[str, ...] = field(default=())
    comment: str = ""
    orientation: int | None = None


def read(packet: bytes) -> Marks:
    """What a packet says, whatever it is; one that declares a document type, by which XML grows without end, says
    nothing."""
    marks, inside, words, tags = Marks(), list[str](), list[str](), list[str]()

    def begin(name: str, attributes: dict[str, str]) -> None:
        inside.append(name)
        words.clear()
        if _XMP_RATING in attributes:
            marks.rating = _stars(attributes[_XMP_RATING])
        if _XMP_ORIENTATION in attributes:
            marks.orientation = _turn(attributes[_XMP_ORIENTATION])

    def end(name: str) -> None:
        inside.pop()
        said = "".join(words)
        words.clear()
        if name == _XMP_RATING:
            marks.rating = _stars(said)
        elif name == _XMP_ORIENTATION:
            marks.orientation = _turn(said)
        elif name == _XMP_ITEM and _XMP_SUBJECT in inside[-2:]:
            tags.append(said)
        elif name == _XMP_ITEM and _XMP_COMMENT in inside[-2:]:
            marks.comment = said

    def refuse(*_: object) -> None:
        raise ValueError

    if not packet or len(packet) > MOST_XMP:
        return marks
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, words.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet if b"\0" in packet[:4] else packet.strip(b"\0 \r\n\t"), True)  # zeros are half of UTF-16
    except (expat.ExpatError, ValueError):
        return Marks()
    marks.tags = tuple(tags)
    return marks


def _stars(said: str) -> int | None:
    return int(said.strip()[0]) if re.fullmatch(r"\s*[1-5](\.0*)?\s*", said) else None


def _turn(said: str) -> int | None:
    return int(said) if re.fullmatch("[1-8]", said) else None
