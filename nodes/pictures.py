"""Pictures as ComfyUI has them: as tensors, shown on a node, saved in its output folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..luna_dt.errors import BadInput
from . import host

if TYPE_CHECKING:
    import torch
    from PIL import Image

#: What pictures are saved as, by the ends of their names.
KINDS = {"png": ".png", "webp": ".webp", "jpeg": ".jpg"}
EXIF_MODEL, EXIF_IFD, USER_COMMENT = 0x0110, 0x8769, 0x9286
JPEG_ROOM = 65_500  # bytes of EXIF


def to_image(picture: Image.Image) -> torch.Tensor:
    """IMAGE: float32 [1, H, W, 3] in 0..1, from an RGB picture."""
    import numpy as np
    import torch

    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def to_mask(alpha: Image.Image | None, size: tuple[int, int]) -> torch.Tensor:
    """MASK: float32 [1, H, W], 1 where the picture is transparent, as ComfyUI's own loader gives it."""
    import numpy as np
    import torch

    if alpha is None:
        return torch.zeros((1, size[1], size[0]), dtype=torch.float32)
    return 1 - torch.from_numpy(np.asarray(alpha, dtype=np.float32) / 255)[None]


def preview(picture: Image.Image) -> dict[str, Any]:
    """What a node returns as ``ui`` to show a picture; {} outside ComfyUI."""
    if not host.running():
        return {}
    name = f"luna_dt_{uuid.uuid4().hex}.png"
    picture.save(host.temp_folder() / name, compress_level=1)
    return {"images": [{"filename": name, "subfolder": "", "type": "temp"}]}


@dataclass(frozen=True)
class Saved:
    """A picture that was saved: where, as ComfyUI's page shows it, and the names of the texts that it has no room for."""

    path: Path
    shown: dict[str, Any]
    left_out: list[str]


def save(
    picture: Image.Image, prefix: str, kind: str, quality: int, parameters: str | None, graph: Any, extra_pnginfo: Any
) -> Saved:
    """Saves a picture in ComfyUI's output folder with A1111's ``parameters``, if any, and ComfyUI's own ``prompt`` and
    ``workflow``; ``kind`` is one of KINDS."""
    if not host.running():
        raise BadInput("pictures are saved only inside ComfyUI; leave filename_prefix empty")
    path, subfolder = host.output_file(prefix.strip(), picture.size, KINDS[kind])
    graphs = {"prompt": graph, **(extra_pnginfo or {})}
    texts = {str(name): json.dumps(value) for name, value in graphs.items() if value is not None}
    part = path.with_suffix(".part")
    kept = host.keeps_metadata()
    left_out = write(picture, part, kind, quality, parameters if kept else None, texts if kept else {})
    part.replace(path)
    return Saved(path, {"filename": path.name, "subfolder": subfolder, "type": "output"}, left_out)


def write(
    picture: Image.Image, path: Path, kind: str, quality: int, parameters: str | None, texts: Mapping[str, str]
) -> list[str]:
    """Writes a picture with its texts where DT, A1111 and ComfyUI's page look for them: a PNG's own, or EXIF's.

    In EXIF ``parameters`` is the UserComment, as A1111 has it, ``prompt`` is Model and all others go down from there,
    as ComfyUI has them.  A JPEG has room for 64 KB: what does not fit is left out, the last first, and its names given.
    """
    if kind == "png":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        for name, text in {**({} if parameters is None else {"parameters": parameters}), **texts}.items():
            info.add_text(name, text)
        picture.save(path, "PNG", pnginfo=info, compress_level=4)
        return []
    tags: dict[int, Any] = {} if parameters is None else {EXIF_IFD: {USER_COMMENT: _comment(parameters)}}
    names = [] if parameters is None else ["parameters"]
    for tag, (name, text) in zip(range(EXIF_MODEL, 0, -1), texts.items(), strict=False):
        tags[tag] = f"{name}:{text}"
        names.append(name)
    exif = _exif(tags)
    while kind == "jpeg" and len(exif) > JPEG_ROOM:
        tags.popitem()
        exif = _exif(tags)
    if kind == "jpeg":
        picture.save(path, "JPEG", exif=exif, quality=quality, subsampling=0)
    else:
        picture.save(path, "WEBP", exif=exif, quality=quality, lossless=quality == 100)
    return names[len(tags) :]


def _comment(text: str) -> bytes:
    return b"UNICODE\0" + text.encode("utf-16-be", "replace")


def _exif(tags: Mapping[int, Any]) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif.update(tags)
    return exif.tobytes() if tags else b""
