"""CLIP's two towers by open_clip, each alone: the one that is not needed is neither read nor kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtra, SettingsError, WeightsError
from ..records import Float32s, Identity
from ..settings import Settings
from . import Residency, weights
from .weights import Weights

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)

BATCH = 32  # pictures or texts in the tower at once


class ImageTower:
    """The image tower an identity names; pictures in, unit vectors out.

    The output is ``pooled`` (the class token after the last layer norm, as DT's visual layer has it) or
    ``projected``; pixels are squashed or cropped to the tower's square input, bicubic with antialiasing.
    """

    def __init__(self, identity: Identity, settings: Settings, residency: Residency | None = None) -> None:
        found = weights.find(identity, settings.models_folder)
        self.identity = identity
        self._mean, self._std = np.array(found.mean, np.float32), np.array(found.std, np.float32)
        device, self._dtype = place(settings.device)
        self._ready = residency or (lambda module: module.to(device))  # a host with a say places it by itself
        tower = _empty_model(found).visual
        if identity.output == "pooled":
            tower.proj = None
        self._pixels = int(tower.image_size[0])
        self._tower = _filled(tower, found, "image", self._dtype)
        log.info("%s from %s", identity, found.file)

    def encode(self, pictures: Sequence[Image.Image]) -> Float32s:
        """float32[n, dim] for RGB pictures, each row of length 1."""
        import torch

        device = _device(self._ready, self._tower)

        def run(part: Sequence[Image.Image]) -> torch.Tensor:
            pixels = np.stack([self._prepared(picture) for picture in part])
            output: torch.Tensor = self._tower(torch.from_numpy(pixels).to(device, self._dtype))
            return output

        return _unit_vectors(pictures, run, self.identity)

    def _prepared(self, picture: Image.Image) -> Float32s:
        side = self._pixels
        if self.identity.pixels == "crop":
            scale = side / min(picture.size)
            picture = picture.resize(
                (max(side, round(picture.width * scale)), max(side, round(picture.height * scale))), _BICUBIC
            )
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
        else:
            picture = picture.resize((side, side), _BICUBIC)
        values = np.asarray(picture, dtype=np.float32) / np.float32(255)
        return np.ascontiguousarray(((values - self._mean) / self._std).transpose(2, 0, 1))


_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC, whose kernel has a = -0.5, as DT's


class TextTower:
    """The text tower of the model an identity names, projected or pooled as the identity says."""

    def __init__(self, identity: Identity, settings: Settings, residency: Residency | None = None) -> None:
        import torch

        found = weights.find(identity, settings.models_folder)
        self.identity = identity
        device, self._dtype = place(settings.device)
        self._ready = residency or (lambda module: module.to(device))  # a host with a say places it by itself
        model = _empty_model(found)
        del model.visual, model.logit_scale
        if identity.output == "pooled":
            model.text_projection = None
        size = model.context_length
        # a buffer that no weights file has: nothing may look ahead
        model.attn_mask = torch.full((size, size), float("-inf")).triu_(1)
        self._model = _filled(model, found, "text", self._dtype)
        self._tokenize = _tokenizer(identity, found)

    def encode(self, texts: Sequence[str]) -> Float32s:
        """float32[n, dim], each row of length 1; what exceeds the context (77 tokens) is cut off."""

        device = _device(self._ready, self._model)

        def run(part: Sequence[str]) -> torch.Tensor:
            output: torch.Tensor = self._model.encode_text(self._tokenize(list(part)).to(device))
            return output

        return _unit_vectors(texts, run, self.identity)


def _device(ready: Residency, module: Any) -> Any:
    """Has the module brought where it is to run, and gives that device."""
    ready(module)
    return next(module.parameters()).device


def place(device: str) -> tuple[torch.device, torch.dtype]:
    """The device a setting names and the precision used there: half on a GPU, single elsewhere."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("torch", "clip") from error
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device '{device}' is none that torch knows; try auto, cuda:0, mps or cpu") from error
    return chosen, torch.float32 if chosen.type == "cpu" else torch.float16


def _empty_model(found: Weights) -> Any:
    """The whole model without memory for its tensors, so that the unneeded tower costs nothing."""
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise MissingExtra("open_clip", "clip") from error
    config = {name: value for name, value in found.config.items() if name in _MODEL_FIELDS}
    with torch.device("meta"):
        return open_clip.CLIP(**config)


_MODEL_FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")


def _filled(module: Any, found: Weights, tower: str, dtype: torch.dtype) -> Any:
    given = weights.tensors(found.file, tower)
    if getattr(module, "proj", True) is None:
        given.pop("proj", None)
    if getattr(module, "text_projection", True) is None:
        given.pop("text_projection", None)
    try:
        ready = {name: given.pop(name).to(dtype) for name in list(given)}  # popped, or both would be held
        module.load_state_dict(ready, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{found.file} is not of this architecture: {str(error)[:300]}") from error
    return module.eval().requires_grad_(False)


def _tokenizer(identity: Identity, found: Weights) -> Callable[[list[str]], torch.Tensor]:
    import open_clip

    if found.vocabulary:
        length = found.config["text_cfg"]["context_length"]
        tokenizer: Callable[[list[str]], torch.Tensor] = open_clip.SimpleTokenizer(
            str(found.vocabulary), context_length=length
        )
    else:
        tokenizer = open_clip.get_tokenizer(identity.architecture)
    return tokenizer


def _unit_vectors(items: Sequence[Any], run: Callable[[Sequence[Any]], torch.Tensor], identity: Identity) -> Float32s:
    import torch

    result = np.empty((len(items), identity.dim), np.float32)
    with torch.inference_mode():
        for at in range(0, len(items), BATCH):
            vectors = torch.nn.functional.normalize(run(items[at : at + BATCH]).float(), dim=-1)
            if vectors.shape[1] != identity.dim:
                raise WeightsError(f"the model gives {vectors.shape[1]} dimensions where its identity says {identity}")
            result[at : at + BATCH] = vectors.cpu().numpy()
    return result
