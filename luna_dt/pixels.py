"""Pictures from anywhere as 8-bit RGB."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from .errors import BadPicture

if TYPE_CHECKING:
    from PIL import Image

    Picture: TypeAlias = Image.Image
else:
    Picture = Any  # Pillow is imported when a picture is opened, not before; hints can be read without it

#: A path, a PIL image, encoded bytes, an array or a tensor: [H,W], [H,W,C] or a batch [B,H,W,C];
#: uint8, uint16 or floats in 0..1, with 1 to 4 channels (alpha is dropped, as ComfyUI does).
PictureLike: TypeAlias = str | os.PathLike[str] | bytes | Picture | npt.NDArray[Any] | Any

MAX_PIXELS = 178_956_970  # twice Pillow's own warning level: it refuses to open more by itself
MAX_BYTES = 10 * MAX_PIXELS  # that a picture takes while it becomes 8-bit RGB
#: What is opened, by Pillow's names; others start programs (EPS) or are no pictures of anybody's library.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM", "JPEG2000", "QOI")
_BYTES = {"I": 14, "F": 14, "I;16": 10, "I;16B": 10, "I;16L": 10, "I;16N": 10}  # for each pixel; of other modes 8
LEAST_FLOAT, MOST_FLOAT = -0.9, 16  # what upscalers overshoot is cut off; -1..1 and 0..255 are other ranges
_STRIP = 1 << 20  # values that are scaled at once
_TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
          8: "ROTATE_90"}  # fmt: skip
ORIENTATION = 0x0112  # EXIF's tag
_PHOTOMETRIC = 262  # TIFF's


def read_pictures(source: PictureLike, name: str = "the given picture") -> list[Image.Image]:
    """Every picture in ``source`` as 8-bit RGB, upright; a batch gives several, everything else one.

    16-bit values are scaled by 257, palettes resolved, alpha dropped, EXIF rotation applied, and of an
    animation the first frame is taken.  Raises BadPicture, naming the file, when that cannot be done.
    """
    from PIL import Image

    try:
        if isinstance(source, Image.Image):
            return [_upright_rgb(source, name)]
        if isinstance(source, (str, os.PathLike)):
            name = str(source)
            return [_open(Path(source), name)]
        if isinstance(source, (bytes, bytearray, memoryview)):
            return [_open(io.BytesIO(source), name)]
        return _from_array(source)
    except MemoryError as error:
        raise BadPicture(f"{name}: there is not enough memory for it") from error


def read_alpha(data: bytes) -> Image.Image | None:
    """The first frame's transparency, upright, as 8-bit grey (255 opaque); None where there is none."""
    with _opened(io.BytesIO(data), "the given picture") as picture:
        if "A" not in picture.getbands() and "transparency" not in picture.info:
            return None
        _check_size(picture, "the given picture")
        return _upright(picture).convert("RGBA").getchannel("A")


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with (
            contextlib.nullcontext(file) if isinstance(file, io.BytesIO) else file.open("rb") as data,
            _opened(data, name) as picture,
        ):
            return _upright_rgb(picture, name)
    except FileNotFoundError as error:
        raise BadPicture(f"{name}: no such file") from error
    except (BadPicture, MemoryError):
        raise
    except Exception as error:  # decoders fail in many ways: struct.error, RuntimeError, SyntaxError …
        raise BadPicture(f"{name}: not a picture that can be read ({_cause(error)})") from error


def _cause(error: Exception) -> str:
    """A decoder's words without the names that it has for what it was given."""
    return re.sub(r" <_io\.\w+ .*?>| <tempfile.*?>", "", str(error))


def shrunk(data: BinaryIO, name: str, side: int, most: int) -> Image.Image:
    """A picture of ``most`` pixels as 8-bit RGB, upright, its longer side ``side`` pixels at most.

    Raises BadPicture, naming the file.
    """
    try:
        data.seek(0)
        with _opened(data, name, most) as opened:
            _check_size(opened, name, most)
            opened.draft("RGB", (2 * side, 2 * side))  # a JPEG is read no larger than that
            whole = min(opened.size) // (2 * side)
            rough = opened.reduce(whole) if whole > 1 and opened.mode in ("L", "LA", "RGB", "RGBA") else opened
            picture = _upright_rgb(rough, name)
        picture.thumbnail((side, side), reducing_gap=2.0)
        return picture
    except BadPicture:
        raise
    except MemoryError as error:
        raise BadPicture(f"{name}: there is not enough memory for it") from error
    except Exception as error:  # as in _open
        raise BadPicture(f"{name}: not a picture that can be read ({_cause(error)})") from error


def upright_size(data: BinaryIO) -> tuple[int, int] | None:
    """Width and height of a picture as it is shown, its pixels unread; None where it is none."""
    from PIL import Image

    try:
        data.seek(0)
        with unread(data) as picture:
            width, height = picture.size
            exif = Image.Image.getexif(picture)  # a PNG's own would read its pixels, to look for EXIF behind them
            return (height, width) if exif.get(ORIENTATION) in (5, 6, 7, 8) else (width, height)
    except Exception:  # noqa: BLE001 - decoders fail in many ways
        return None


def _opened(data: BinaryIO, name: str, most: int = MAX_PIXELS) -> Image.Image:
    """A picture opened by Pillow; a PNG, if need be, without what is beside its pixels."""
    try:
        picture = unread(data)
        if picture.format == "PNG":  # whose texts may also come after the pixels
            _check_size(picture, name, most)
            picture.load()
        return picture
    except (BadPicture, MemoryError):
        raise
    except Exception:
        data.seek(0)
        if data.read(len(_PNG)) != _PNG:
            raise
        return unread(io.BytesIO(_pixels_only(data.read())))


def unread(source: BinaryIO | Path) -> Image.Image:
    """A picture of FORMATS as Pillow opens it, its pixels not read yet; raises in as many ways as decoders do."""
    from PIL import Image

    return Image.open(source, formats=[each for each in FORMATS if each in _known_formats()])


@functools.cache
def _known_formats() -> frozenset[str]:
    from PIL import Image

    Image.init()
    return frozenset(Image.OPEN)


def _pixels_only(data: bytes) -> bytes:
    """Of what follows a PNG's signature only what its pixels need, with the signature."""
    kept, at, kind = [_PNG], 0, b""
    while at + 8 <= len(data) and kind != b"IEND":
        end, kind = at + 12 + int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind in _PIXEL_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


_PNG = b"\x89PNG\r\n\x1a\n"
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says; unlike Pillow's own way nothing is written anew, so that nothing of it can be in the way."""
    from PIL import Image

    try:
        turn = _TURNS.get(picture.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001  who cannot say how it lies, lies as it is
        turn = None
    return picture.transpose(Image.Transpose[turn]) if turn else picture


def _check_size(picture: Image.Image, name: str, most: int = MAX_PIXELS) -> None:
    width, height = picture.size
    if not width or not height or width * height > most:
        raise BadPicture(f"{name}: {width}x{height} pixels; between 1 and {most:,} can be used")
    # Pillow has an address for each line of each of its copies, too
    if width * height * _BYTES.get(picture.mode, 8) + max(width, height) * 24 > MAX_BYTES:
        raise BadPicture(
            f"{name}: {width}x{height} pixels of the mode {picture.mode} take more than {MAX_BYTES:,} bytes"
        )


def _upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    _check_size(picture, name)
    upright = _upright(picture)
    if upright.mode == "RGB":
        return upright.copy() if upright is picture else upright
    if upright.mode == "F" or upright.mode.startswith("I"):  # greys that Pillow would clip rather than scale
        values = np.asarray(upright)
        if not np.isfinite(values).all():
            raise BadPicture(f"{name} holds NaN or infinite values")
        full = _full(values, picture)
        return _grey(full - values if _white_is_zero(picture) else values, full)
    if upright.mode in ("La", "RGBa"):  # whose colours are multiplied with their alpha
        upright = upright.convert("LA" if upright.mode == "La" else "RGBA")
    if upright.mode == "P":  # through RGBA, or transparency given as bytes would be lost with a warning
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


def _full(values: npt.NDArray[Any], picture: Image.Image) -> int:
    """What is white among a grey picture's values: of floats 1, or the largest of whole numbers, in whose range some programs
    write them; of 32 bits that of 8 bits, or of 16."""
    if picture.mode.startswith("I;16") or picture.format not in (None, "TIFF"):
        return 65535
    largest = float(values.max())
    ranges = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
    return next((full for full in ranges if largest <= full * 1.01), 1 if picture.mode == "F" else 65535)


def _white_is_zero(picture: Image.Image) -> bool:
    """Whether a TIFF says so of greys, which Pillow heeds of 8 bits and fewer."""
    return picture.format == "TIFF" and getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _grey(values: npt.NDArray[Any], full: int) -> Image.Image:
    """Values in 0..``full`` as 8-bit grey, in RGB."""
    from PIL import Image

    grey = np.empty(values.shape, np.uint8)
    step = max(1, _STRIP // values.shape[1])
    for at in range(0, len(values), step):
        grey[at : at + step] = np.round(np.clip(values[at : at + step], 0, full) * (255.0 / full))
    return Image.fromarray(grey).convert("RGB")


def _from_array(source: Any) -> list[Image.Image]:
    from PIL import Image

    if hasattr(source, "detach"):  # a torch tensor, on any device
        source = source.detach().cpu().float().numpy() if source.is_floating_point() else source.cpu().numpy()
    try:
        array = np.asarray(source)
    except (TypeError, ValueError) as error:
        raise BadPicture(f"a {type(source).__name__} is not a picture") from error
    if array.dtype == object or array.ndim not in (2, 3, 4):
        raise BadPicture(f"a picture is [H,W], [H,W,C] or a batch [B,H,W,C], not {type(source).__name__} {array.shape}")
    if array.ndim == 2:
        array = array[:, :, None]
    batch = array if array.ndim == 4 else array[None]
    if 0 in batch.shape or batch.shape[-1] > 4:
        raise BadPicture(f"a picture has 1 to 4 channels last and at least one pixel, not shape {array.shape}")
    if batch.shape[1] * batch.shape[2] > MAX_PIXELS:
        raise BadPicture(f"a picture of shape {array.shape} has more than {MAX_PIXELS:,} pixels")
    if np.issubdtype(batch.dtype, np.floating):
        if not np.isfinite(batch).all():
            raise BadPicture("a picture holds NaN or infinite values")
        least, largest = float(batch.min()), float(batch.max())
        if largest > MOST_FLOAT or least < LEAST_FLOAT:  # of another range, of which nothing would be left
            raise BadPicture(
                f"a picture of floats is in 0..1, not {least:.3g} to {largest:.3g}: bring it there, or to uint8"
            )
        batch = np.round(np.clip(batch, 0.0, 1.0) * 255).astype(np.uint8)
    elif batch.dtype == np.uint16:
        batch = np.round(batch / 257).astype(np.uint8)
    elif batch.dtype == np.bool_:
        batch = batch.astype(np.uint8) * 255
    elif batch.dtype != np.uint8:
        raise BadPicture(f"a picture is uint8, uint16 or float in 0..1, not {batch.dtype}")
    colours = batch[..., :3] if batch.shape[-1] >= 3 else np.repeat(batch[..., :1], 3, axis=-1)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in colours]
