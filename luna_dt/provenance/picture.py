"""What a picture's file says of its own making: its texts, from PNG or EXIF, read by what they are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import BadPicture
from ..pixels import unread
from . import Made, graph, parameters
from .walk import Nodes

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
MOST_GRAPH = 32 << 20  # characters of a graph's JSON
NOTHING_KNOWN = Made()
MOST_SAVERS = 32  # nodes of one graph that save pictures


@dataclass(frozen=True)
class Said:
    """What a picture says of itself: ``format`` and size in pixels; how it was ``made``, by the texts named in ``read``
    (``parameters``, ``prompt``); AUTOMATIC1111's other settings; and all its texts by their names, as they are."""

    format: str
    width: int
    height: int
    made: Made = NOTHING_KNOWN
    read: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        made = {f.name: value for f in fields(Made) if (value := getattr(self.made, f.name)) is not None}
        return {**vars(self), "made": made, "settings": dict(self.settings), "texts": dict(self.texts)}


def read(file: Path) -> Said:
    """Reads a file's texts, not its pixels; what is not understood is left out.  Raises BadPicture."""
    try:
        with unread(file) as opened:
            said = Said(opened.format or "", *opened.size)
            texts = dict(_texts(opened))
    except Exception as error:  # decoders fail in many ways
        raise BadPicture(f"{file} cannot be opened as a picture: {error}") from error
    found: list[tuple[str, Made]] = []
    settings: dict[str, str] = {}
    for name, text in texts.items():
        if nodes := _graph(text):
            found.append((name, _saved(nodes)))
        elif name == "parameters" and text.strip():
            told, settings = parameters.read(text)
            found.insert(0, (name, told))  # which whoever saved the picture wrote for that; the graph says the rest
    known = [(name, told) for name, told in found if told != NOTHING_KNOWN]
    made = NOTHING_KNOWN
    for _, told in known:
        made = replace(told, **{f.name: value for f in fields(Made) if (value := getattr(made, f.name)) is not None})
    return replace(said, made=made, read=tuple(name for name, _ in known), settings=settings, texts=texts)


def _texts(picture: Any) -> Iterator[tuple[str, str]]:
    """Names and texts: of PNG as they are; of EXIF as ComfyUI (``prompt:{…}``) and AUTOMATIC1111 put them there."""
    if picture.format == "PNG" and not any(isinstance(value, str) for value in picture.info.values()):
        with contextlib.suppress(Exception):  # texts may come after the pixels, which may be broken
            picture.load()
    for name, value in picture.info.items():
        if isinstance(name, str) and isinstance(value, str):
            yield name, value
    if isinstance(comment := picture.info.get("comment"), bytes):  # of JPEG and GIF
        yield (
            "parameters" if parameters.SETTINGS_LINE.encode() in comment else "comment",
            comment.decode(errors="replace"),
        )
    exif = picture.getexif()
    for value in exif.values():
        if isinstance(value, str) and value.lower().startswith(("prompt:", "workflow:")):
            name, _, text = value.partition(":")
            yield name.lower(), text.rstrip("\0")
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT)
    if comment:
        yield "parameters", _comment(comment)


def _comment(value: bytes | str) -> str:
    """A UserComment: eight bytes name its encoding; in UTF-16, whose order of bytes nobody names, letters tell it."""
    if isinstance(value, str):
        return value.rstrip("\0")
    code, text = value[:8], value[8:]
    if code == b"UNICODE\0":
        orders = {order: text.decode(order, "replace") for order in ("utf-16-be", "utf-16-le")}
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return text.decode("utf-16", "replace").rstrip("\0")
        return max(orders.values(), key=lambda each: sum(char < "\u0250" for char in each)).rstrip("\0")
    if code not in (b"ASCII\0\0\0", bytes(8)):
        text = value  # written without
    return text.decode("utf-8", "replace").rstrip("\0")


def _graph(text: str) -> dict[str, Any] | None:
    """ComfyUI's graph in its API format, if a text is one."""
    if len(text) > MOST_GRAPH or "class_type" not in text:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _saved(nodes: dict[str, Any]) -> Made:
    """What the nodes that save pictures agree in; where none is known as such, those that nothing comes after."""
    walked = Nodes(nodes)
    there = {name: node for name in nodes if (node := walked.node(name))}
    linked = {link.node for node in there.values() for link in node.links().values()}
    ends = [name for name, node in there.items() if name not in linked and node.links()]
    savers = [name for name, node in there.items() if node.links() and _saves(node.kind)] or ends
    told = [made for name in savers[:MOST_SAVERS] if (made := graph.read(nodes, name)) != NOTHING_KNOWN]
    if not told:
        return NOTHING_KNOWN
    same = {
        f.name: value
        for f in fields(Made)
        if all(getattr(each, f.name) == (value := getattr(told[0], f.name)) for each in told)
    }
    return Made(**same)


def _saves(kind: str) -> bool:
    return "save" in kind.lower() or kind == "LunaDTMetadataWriter"
