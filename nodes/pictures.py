"""Pictures as ComfyUI has them: as tensors, shown on a node, saved in its output folder."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..luna_dt.errors import BadInput
from . import host

if TYPE_CHECKING:
    import torch
    from PIL import Image


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
    """A picture that was saved: where, and as ComfyUI's page shows it."""

    path: Path
    shown: dict[str, Any]


def save(picture: Image.Image, prefix: str, parameters: str | None, graph: Any, extra_pnginfo: Any) -> Saved:
    """Saves a PNG in ComfyUI's output folder with A1111's ``parameters``, if any, and ComfyUI's own ``prompt`` and ``workflow``."""
    from PIL.PngImagePlugin import PngInfo

    if not host.running():
        raise BadInput("pictures are saved only inside ComfyUI; leave filename_prefix empty")
    path, subfolder = host.output_file(prefix.strip(), picture.size)
    text = PngInfo()
    if host.keeps_metadata():
        if parameters is not None:
            text.add_text("parameters", parameters)
        if graph is not None:
            text.add_text("prompt", json.dumps(graph))
        for key, value in (extra_pnginfo or {}).items():
            text.add_text(str(key), json.dumps(value))
    part = path.with_suffix(".part")
    picture.save(part, "PNG", pnginfo=text, compress_level=4)
    part.replace(path)
    return Saved(path, {"filename": path.name, "subfolder": subfolder, "type": "output"})
