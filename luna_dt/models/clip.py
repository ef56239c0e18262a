"""CLIP's two towers by open_clip, each alone: the one that is not needed is neither read nor kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtra, WeightsError
from ..identity import Identity
from ..memory import Memory
from ..records import Float32s
from . import weights
from .weights import Weights

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)


class ImageTower:
    """The image tower of the model an identity names; pictures in, unit vectors out.

    Pixels and output are those of the identity it is called with: squashed or cropped to the tower's square
    input (with antialiasing), and ``pooled`` (the class token after the last layer norm, as DT's visual
    layer has it) or ``projected``.
    """

    def __init__(self, identity: Identity, folders: Sequence[Path], place: tuple[Any, Any], memory: Memory) -> None:
        found = weights.find(identity, folders)
        self._device, self._dtype = place
        self._memory = memory
        self._mean, self._std = found.mean, found.std
        tower = _empty_model(found).visual
        tower.proj, self._projection = None, _Projection(tower.proj)
        self.side = int(tower.image_size[0])
        self._tower = _filled(tower, found, "image", "proj", self._projection, self._dtype)
        self.dim = int(found.config["embed_dim"])
        self.on_cuda = self._device.type == "cuda"
        self.batch = 128 if self._device.type != "cpu" else 16
        log.info("%s from %s", identity.model, found.file)

    def prepared(self, picture: Image.Image, identity: Identity) -> npt.NDArray[np.uint8]:
        """uint8[side, side, 3]: an RGB picture as it meets the tower; for any thread, while the tower works."""
        side, kernel = self.side, _BILINEAR if "bilinear" in identity.pixels else _BICUBIC
        if not identity.pixels.startswith("crop"):
            return np.asarray(picture.resize((side, side), kernel))
        scale = side / min(picture.size)
        fitted = (max(side, round(picture.width * scale)), max(side, round(picture.height * scale)))
        left, top = (fitted[0] - side) // 2, (fitted[1] - side) // 2
        return np.asarray(picture.resize(fitted, kernel).crop((left, top, left + side, top + side)))

    def vectors(self, prepared: Sequence[npt.NDArray[np.uint8]], identity: Identity) -> Float32s:
        """float32[n, dim] for prepared pictures, each row of length 1; raises OutOfMemory."""
        import torch

        def run(part: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
            device = self._memory.ready(self._tower, self._device)
            pixels = torch.from_numpy(np.stack(part))
            if device.type == "cuda":
                pixels = pixels.pin_memory()
            mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (self._mean, self._std))
            values = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
            pooled = self._tower(((values - mean) / std).to(self._dtype))
            return self._projection(pooled, identity)

        return self._memory.in_batches(self, prepared, identity.dim, run)


_BILINEAR, _BICUBIC = 2, 3  # of PIL.Image.Resampling; its bicubic kernel has a = -0.5, as DT's


class TextTower:
    """The text tower of the model an identity names; texts in, unit vectors out, pooled or projected."""

    def __init__(self, identity: Identity, folders: Sequence[Path], place: tuple[Any, Any], memory: Memory) -> None:
        import torch

        found = weights.find(identity, folders)
        self._device, self._dtype = place
        self._memory = memory
        model = _empty_model(found)
        del model.visual, model.logit_scale
        model.text_projection, self._projection = None, _Projection(model.text_projection)
        size = model.context_length
        # a buffer that no weights file has: nothing may look ahead
        model.attn_mask = torch.full((size, size), float("-inf"), dtype=self._dtype).triu_(1)
        self._model = _filled(model, found, "text", "text_projection", self._projection, self._dtype)
        self._tokenize = _tokenizer(identity, found)
        self.dim = int(found.config["embed_dim"])
        self.on_cuda = self._device.type == "cuda"
        self.batch = 256 if self._device.type != "cpu" else 32
        log.info("%s from %s", identity.model, found.file)

    def prepared(self, text: str, _: Identity) -> torch.Tensor:
        """int64[context]: the text's tokens; what exceeds the context (77 in CLIP) is cut off."""
        return self._tokenize([text])[0]

    def vectors(self, prepared: Sequence[torch.Tensor], identity: Identity) -> Float32s:
        """float32[n, dim] for prepared texts, each row of length 1; raises OutOfMemory."""
        import torch

        def run(part: Sequence[torch.Tensor]) -> torch.Tensor:
            device = self._memory.ready(self._model, self._device)
            return self._projection(self._model.encode_text(torch.stack(list(part)).to(device)), identity)

        return self._memory.in_batches(self, prepared, identity.dim, run)


class _Projection:
    """A tower's last matrix, kept beside it, so that one tower gives pooled and projected vectors."""

    def __init__(self, of_model: Any) -> None:
        self.shape = None if of_model is None else tuple(of_model.shape)
        self.matrix: Any = None

    def __call__(self, pooled: torch.Tensor, identity: Identity) -> torch.Tensor:
        if identity.output == "projected":
            if self.matrix is None:
                raise WeightsError(f"the weights of {identity.model} have no projection, which {identity} needs")
            self.matrix = self.matrix.to(pooled.device)
            pooled = pooled @ self.matrix
        if pooled.shape[1] != identity.dim:
            raise WeightsError(f"the model gives {pooled.shape[1]} dimensions where its identity says {identity}")
        return pooled


def _empty_model(found: Weights) -> Any:
    """The whole model without memory for its tensors, so that the unneeded tower costs nothing."""
    try:
        import open_clip
        import torch
    except ImportError as error:
        raise MissingExtra("open_clip", "clip") from error
    config = {name: value for name, value in found.config.items() if name in _MODEL_FIELDS}
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or not isinstance(vision["layers"], int) or "hf_model_name" in text:
        raise WeightsError(f"{found.file} is of an architecture that is not used here; name a ViT of open_clip")
    with torch.device("meta"):
        return open_clip.CLIP(**config)


_MODEL_FIELDS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu")


def _filled(module: Any, found: Weights, tower: str, last: str, projection: _Projection, dtype: torch.dtype) -> Any:
    given = weights.tensors(found.file, tower, dtype)
    projection.matrix = given.pop(last, None)
    have = None if projection.matrix is None else tuple(projection.matrix.shape)
    try:
        if have and have != projection.shape:
            raise RuntimeError(f"{last} is {have}, not {projection.shape}")
        module.load_state_dict(given, strict=True, assign=True)
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
    elif identity.architecture in open_clip.list_models():
        tokenizer = open_clip.get_tokenizer(identity.architecture)
    else:
        size, length = found.config["text_cfg"]["vocab_size"], found.config["text_cfg"]["context_length"]
        if size != OPENAI_VOCABULARY:
            raise WeightsError(f"{found.file.parent} lacks bpe_vocabulary.txt.gz, the {size} tokens of its texts")
        tokenizer = open_clip.SimpleTokenizer(context_length=length)
    return tokenizer


OPENAI_VOCABULARY = 49408  # tokens of OpenAI's CLIP, which most models of its kind share
