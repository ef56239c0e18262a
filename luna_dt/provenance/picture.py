"""What a picture's file says of itself: its size, how it was made, its rating and tags; no pixel is decoded.

A PNG is read here, chunk by chunk, since its texts may lie behind its pixels, which Pillow would decode to reach them;
all others are opened by Pillow.  Whatever cannot be understood of what lies beside the pixels is passed over.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO

from ..errors import BadPicture
from ..pixels import FORMATS, MAX_PIXELS, ORIENTATION
from . import Made, graph, others, parameters, xmp

READING = 3  # to be raised when a picture is understood otherwise than before, so that those of a folder are read again
MOST_BYTES = 8 << 20  # of one text, unpacked
MOST_CHUNKS = 100_000  # of one PNG
MOST_TAGS, MOST_TAG = 500, 200  # tags of a picture, characters of one
_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (  # what is looked for in a PNG
    b"parameters", b"prompt", b"XML:com.adobe.xmp", b"invokeai_metadata", b"Software", b"Source", b"Comment", b"Description",
    b"sd-metadata", b"negative_prompt", b"seed", b"num_inference_steps", b"guidance_scale", b"sampler_name", b"width", b"height",
    b"use_stable_diffusion_model", b"Raw profile type exif",
)  # fmt: skip
_EXIF_IFD, _USER_COMMENT, _RATING, _KEYWORDS, _TIFF_XMP = 0x8769, 0x9286, 0x4746, 0x9C9E, 0x02BC
_DESCRIPTION, _WINDOWS_COMMENT = 0x010E, 0x9C9C
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"


@dataclass(frozen=True, slots=True)
class Told:
    """What a picture says of itself: pixels when upright, how it was ``made``, the ``model_hash`` and ``rating`` (1 to 5)
    where it has them, and its tags."""

    width: int
    height: int
    made: Made
    model_hash: str
    rating: int | None
    tags: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        made = {each.name: value for each in fields(Made) if (value := getattr(self.made, each.name)) is not None}
        return {**asdict(self), "made": made}


def read(data: BinaryIO) -> Told:
    """Reads an open file from its beginning; raises BadPicture, saying why it is none that can be used, OSError."""
    try:
        width, height, texts, exif = _png(data) if data.read(len(_PNG)) == _PNG else _other(data)
    except (BadPicture, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's own, not a decoder's
            raise
        raise BadPicture("it is no picture that can be read") from error
    if not (width > 0 < height and width * height <= MAX_PIXELS):
        raise BadPicture(f"{width}x{height} pixels; between 1 and {MAX_PIXELS:,} can be used")
    marks = xmp.read(texts.get("XML:com.adobe.xmp", b""))
    given = exif.get(_RATING)
    rating = marks.rating or (given if type(given) is int and 1 <= given <= 5 else None)
    tags = marks.tags or tuple(_utf16(exif.get(_KEYWORDS)).split(";"))
    comments = [
        user_comment(exif.get(_USER_COMMENT)),
        user_comment(exif.get(_DESCRIPTION)),
        _utf16(exif.get(_WINDOWS_COMMENT)),
    ]
    comments += [marks.comment, _text(texts.get("comment", b""))]
    comments += [value.partition(":")[2] for value in exif.values() if _names_prompt(value)]
    made, model_hash = _made({name: _text(said) for name, said in texts.items()}, comments)
    known = dict.fromkeys(" ".join(line.strip() for line in tag.strip().split("\n")) for tag in tags)
    tags = tuple(tag for tag in known if tag and len(tag) <= MOST_TAG)[:MOST_TAGS]
    size = (height, width) if exif.get(ORIENTATION, marks.orientation) in (5, 6, 7, 8) else (width, height)
    return Told(*size, made, model_hash, rating, tags)


def user_comment(value: Any) -> str:
    """EXIF's UserComment as text: eight bytes that name its code, then UTF-16 in whichever order, UTF-8, Latin-1 or JIS."""
    if not isinstance(value, bytes):
        return _text(value.encode("latin-1", "replace")) if isinstance(value, str) else ""  # as Pillow decodes all text
    code, said = value[:8].upper(), value[8:]
    if code == b"UNICODE\0":
        return _utf16(said) if b"\0" in said or said[:2] in (b"\xff\xfe", b"\xfe\xff") else _text(said)
    if code == b"JIS\0\0\0\0\0":
        return said.decode("iso2022_jp" if b"\x1b" in said else "shift_jis", "replace").strip("\0")
    return _text(said if code in (b"ASCII\0\0\0", bytes(8)) else value).strip("\0")


def _made(texts: dict[str, str], comments: list[str]) -> tuple[Made, str]:
    """How it was made, and its model's hash, by the first text that tells it: A1111's, another program's own, then
    ComfyUI's graph.

    A comment may be anybody's words: it counts only where it has A1111's settings, or is a graph.  So may be what is
    called ``parameters`` without settings: that is a prompt where nothing else tells one.
    """
    comments = [comment for comment in comments if len(comment) <= MOST_BYTES]
    words = Made()
    for text, anyones in [(texts.get("parameters", ""), False), *((comment, True) for comment in comments)]:
        if not text.strip() or text.lstrip().startswith(("{", "[")):
            continue  # other programs, too, call what they write parameters: as JSON
        made, rest = parameters.read(text)
        if made.steps or made.seed is not None:
            return made, rest.get("Model hash", "")
        words = words if anyones else made
    if told := others.read(texts, comments):
        return told
    for text in (texts.get("prompt", ""), *comments):
        if text.lstrip().startswith("{"):
            try:
                made = graph.saved(json.loads(text))
            except (ValueError, RecursionError):
                continue
            return (words if made == Made() else made), ""
    return words, ""


# -- files ----------------------------------------------------------------------------------------------

_Parts = tuple[int, int, dict[str, bytes], dict[int, Any]]  # width, height, texts by their names, EXIF's tags


def _png(data: BinaryIO) -> _Parts:
    """After the signature: chunks of length, kind, content and checksum, to the end or where they make no sense."""
    size, texts, exif = (0, 0), dict[str, bytes](), dict[int, Any]()
    for at in range(MOST_CHUNKS):
        head = data.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if at == 0:
            header = data.read(17)
            if kind != b"IHDR" or length != 13 or len(header) < 17:
                raise BadPicture("it is no picture that can be read")
            size = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
        elif len(head) < 8 or kind == b"IEND":
            break
        elif kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"comf") and length <= MOST_BYTES:
            content = data.read(length + 4)[:length]
            if kind == b"eXIf":
                exif = _exif(content)
            elif content.startswith(_TEXTS):
                found = _png_text(kind, content)
                texts.update({name: said for name, said in found.items() if said.strip() or name not in texts})
        else:
            data.seek(length + 4, 1)
    return *size, texts, exif or _exif(_unhexed(texts.get("Raw profile type exif", b"")))


def _png_text(kind: bytes, content: bytes) -> dict[str, bytes]:
    """A text by its name; ``comf`` is what ComfyUI has in animations, of tEXt's form."""
    name, _, said = content.partition(b"\0")
    if name not in _TEXTS:
        return {}
    packed = kind == b"zTXt"
    if packed:
        said = said[1:]
    elif kind == b"iTXt":
        packed, rest = said[:1] == b"\1", said[2:]
        said = rest.split(b"\0", 2)[-1] if rest.count(b"\0") >= 2 else b""
    if packed:
        try:
            unpack = zlib.decompressobj()
            said = unpack.decompress(said, MOST_BYTES)
        except zlib.error:
            return {}
        if unpack.unconsumed_tail:
            return {}
    return {name.decode(): _text(said).encode()}


def _other(data: BinaryIO) -> _Parts:
    from PIL import Image

    Image.init()
    data.seek(0)
    with Image.open(data, formats=[each for each in FORMATS if each in Image.OPEN]) as opened:
        packet = opened.info.get("xmp", b"")
        for name, content in getattr(opened, "applist", ()):  # where Pillow before 11 has a JPEG's
            if name == "APP1" and content.startswith(_JPEG_XMP):
                packet = packet or content[len(_JPEG_XMP) :]
        found = _tags(opened.getexif)
        packet = packet or found.get(_TIFF_XMP, b"")
        texts = {"XML:com.adobe.xmp": packet, "comment": opened.info.get("comment")}  # a GIF's, a JPEG's
        return *opened.size, {name: said for name, said in texts.items() if isinstance(said, bytes)}, found


def _exif(content: bytes) -> dict[int, Any]:
    from PIL import Image

    exif = Image.Exif()

    def load() -> Any:
        exif.load(content)
        return exif

    return _tags(load)


def _unhexed(profile: bytes) -> bytes:
    """What ImageMagick has in a PNG's text: after its kind and length, a line each, in hexadecimal digits."""
    try:
        return bytes.fromhex("".join(profile.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""


def _tags(load: Callable[[], Any]) -> dict[int, Any]:
    """EXIF's tags by number, those of its own directory among them; none where they cannot be read."""
    try:
        exif = load()
        return {**exif, **exif.get_ifd(_EXIF_IFD)}
    except Exception:  # noqa: BLE001 - decoders fail in many ways, and the picture is none the worse
        return {}


# -- texts ----------------------------------------------------------------------------------------------


def _names_prompt(value: Any) -> bool:
    """Whether one of EXIF's texts is ComfyUI's graph, which it puts there as ``prompt:{…}``."""
    return isinstance(value, str) and value[:7].lower() == "prompt:"


def _text(said: bytes) -> str:
    """Latin-1 by the PNG standard; what is UTF-8 is that all the same, whoever wrote it.  Marks of order and zeros at the
    ends, which some programs leave there, are no text."""
    try:
        return said.decode("utf-8-sig").rstrip("\0")
    except UnicodeDecodeError:
        return said.decode("latin-1").rstrip("\0")


def _utf16(said: Any) -> str:
    """UTF-16 in either order: as its mark says, else the one by which more is ASCII."""
    data = bytes(said) if isinstance(said, (bytes, tuple, list)) else b""
    little = data[:2] == b"\xff\xfe" or (data[:2] != b"\xfe\xff" and data[1::2].count(0) >= data[::2].count(0))
    text = data.decode("utf-16-le" if little else "utf-16-be", "replace")
    return text.lstrip("\ufeff").rstrip("\0")
