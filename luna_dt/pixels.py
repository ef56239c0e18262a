"""Pictures from anywhere as 8-bit RGB."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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


def read_pictures(source: PictureLike, name: str = "the given picture") -> list[Image.Image]:
    """Every picture in ``source`` as 8-bit RGB, upright; a batch gives several, everything else one.

    16-bit values are scaled by 257, palettes resolved, alpha dropped, EXIF rotation applied, and of an
    animation the first frame is taken.  Raises BadPicture, naming the file, when that cannot be done.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return [_upright_rgb(source, name)]
    if isinstance(source, (str, os.PathLike)):
        return [_open(Path(source), str(source))]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return [_open(io.BytesIO(source), name)]
    return _from_array(source)


def read_alpha(data: bytes) -> Image.Image | None:
    """The first frame's transparency, upright, as 8-bit grey (255 opaque); None where there is none."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as picture:
        if "A" not in picture.getbands() and "transparency" not in picture.info:
            return None
        return ImageOps.exif_transpose(picture).convert("RGBA").getchannel("A")


def _open(file: Path | io.BytesIO, name: str) -> Image.Image:
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return _upright_rgb(picture, name)
    except FileNotFoundError as error:
        raise BadPicture(f"{name}: no such file") from error
    except (BadPicture, MemoryError):
        raise
    except Exception as error:  # decoders fail in many ways: struct.error, RuntimeError, SyntaxError …
        raise BadPicture(f"{name}: not a picture that can be read ({error})") from error


def _upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    from PIL import Image, ImageOps

    width, height = picture.size
    if not width or not height or width * height > MAX_PIXELS:
        raise BadPicture(f"{name}: {width}x{height} pixels; between 1 and {MAX_PIXELS:,} can be used")
    upright = ImageOps.exif_transpose(picture)
    if upright.mode == "RGB":
        return upright
    if upright.mode.startswith("I"):  # 16-bit greys, which Pillow would clip rather than scale
        values = np.clip(np.asarray(upright, dtype=np.int64), 0, 65535)
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if upright.mode == "F":
        return _from_array(np.asarray(upright))[0]
    if upright.mode == "P":  # through RGBA, or transparency given as bytes would be lost with a warning
        upright = upright.convert("RGBA")
    return upright.convert("RGB")


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
        batch = np.round(np.clip(batch, 0.0, 1.0) * 255).astype(np.uint8)
    elif batch.dtype == np.uint16:
        batch = np.round(batch / 257).astype(np.uint8)
    elif batch.dtype == np.bool_:
        batch = batch.astype(np.uint8) * 255
    elif batch.dtype != np.uint8:
        raise BadPicture(f"a picture is uint8, uint16 or float in 0..1, not {batch.dtype}")
    colours = batch[..., :3] if batch.shape[-1] >= 3 else np.repeat(batch[..., :1], 3, axis=-1)
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in colours]
