"""Where a model's weights come from, and only the tensors of the tower that is needed.

In this order: the tiny model that ships with the package; the models folder (``LUNA_DT_MODELS``); the
Hugging Face cache; a download.  Without a network the last one ends in an error that names file,
folder and command, not in a long wait.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, WeightsError
from ..records import Identity

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

TINY = Path(__file__).parent / "tiny"
TINY_ARCHITECTURE = "luna-tiny"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors")
#: Pixel mean and standard deviation of OpenAI's CLIP, which open_clip's models share unless they say otherwise.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Weights:
    """A model ready to be built: open_clip's ``config`` (embed_dim, vision_cfg, text_cfg), its pixel
    statistics, the file with its tensors, and its vocabulary if it has one of its own."""

    config: dict[str, Any] = field(repr=False)
    file: Path
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    vocabulary: Path | None = None


def find(identity: Identity, folder: Path) -> Weights:
    """The weights an identity names; raises WeightsError when they are not to be had."""
    if identity.architecture == TINY_ARCHITECTURE:
        return _from_folder(TINY)
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtra("open_clip", "clip") from error
    name = f"{identity.architecture}-{identity.weights}"
    if (folder / name / "open_clip_config.json").is_file():
        return _from_folder(folder / name)
    config = open_clip.get_model_config(identity.architecture)
    if config is None:
        raise WeightsError(f"open_clip knows no architecture '{identity.architecture}'; put the model as a folder "
                           f"with open_clip_config.json and open_clip_model.safetensors at {folder / name}")  # fmt: skip
    known = open_clip.get_pretrained_cfg(identity.architecture, identity.weights)
    if known.get("quick_gelu"):
        config["quick_gelu"] = True
    repository = known.get("hf_hub", "").rstrip("/")
    file = _in_folder(folder, name, repository) or _from_hub(repository, folder, name)
    return Weights(config, file, tuple(known.get("mean") or CLIP_MEAN), tuple(known.get("std") or CLIP_STD))


def _from_folder(folder: Path) -> Weights:
    """A model folder in open_clip's own form, as its hub repositories have it."""
    try:
        described = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        pixels = described.get("preprocess_cfg", {})
        vocabulary = folder / "bpe_vocabulary.txt.gz"
        return Weights(
            described["model_cfg"],
            folder / "open_clip_model.safetensors",
            tuple(pixels.get("mean", CLIP_MEAN)),
            tuple(pixels.get("std", CLIP_STD)),
            vocabulary if vocabulary.is_file() else None,
        )
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{folder / 'open_clip_config.json'} cannot be read: {error!r}") from error


def _in_folder(folder: Path, name: str, repository: str) -> Path | None:
    places = [folder / f"{name}.safetensors", *(folder / name / file for file in HUB_FILES)]
    if repository:  # the name under which ComfyUI users already have it
        places.append(folder / f"{repository.split('/')[-1]}.safetensors")
    return next((place for place in places if place.is_file()), None)


def _from_hub(repository: str, folder: Path, name: str) -> Path:
    by_hand = (
        f"put it at {folder / (name + '.safetensors')}, or on a machine with a network run: "
        f'hf download {repository} {HUB_FILES[0]} --local-dir "{folder / name}"'
    )
    if not repository:
        raise WeightsError(f"the weights of {name} are not here and open_clip knows no place to load them from; "
                           f"put them at {folder / (name + '.safetensors')}")  # fmt: skip
    import huggingface_hub

    for file in HUB_FILES:
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    try:
        url = huggingface_hub.hf_hub_url(repository, HUB_FILES[0])
        size = huggingface_hub.get_hf_file_metadata(url, timeout=5).size or 0
        log.warning("downloading %s of %s: %.1f GB", HUB_FILES[0], repository, size / 1e9)
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILES[0]))
    except Exception as error:
        raise WeightsError(
            f"{HUB_FILES[0]} of {repository} is not on this machine and cannot be downloaded "
            f"({type(error).__name__}); {by_hand}"
        ) from error


def tensors(file: Path, tower: str) -> dict[str, torch.Tensor]:
    """The tensors of one tower ("image" or "text") under open_clip's names, read without the other's.

    safetensors, or a torch file read with ``weights_only=True``; transformers' names are converted.
    Raises WeightsError naming the file when it is missing, damaged, or holds no such tower.
    """
    try:
        found = dict(_named(file, tower))
    except FileNotFoundError as error:
        raise WeightsError(f"{file}: no such file") from error
    except Exception as error:
        raise WeightsError(f"{file} cannot be read ({error}); it may be damaged: delete it and get it again") from error
    if not found:
        raise WeightsError(f"{file} holds no {tower} tower that can be recognised")
    return found


def _named(file: Path, tower: str) -> Iterator[tuple[str, torch.Tensor]]:
    with _opened(file) as (names, tensor):
        if tower == "image" and any(name.endswith("embeddings.patch_embedding.weight") for name in names):
            yield from _from_transformers({name: tensor(name) for name in names if _VISION.match(name)})
            return
        wanted = _IMAGE if tower == "image" else _TEXT
        for name in names:
            if wanted.match(name):
                yield wanted.sub("", name), tensor(name)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """The names in a file, and how to read one of its tensors."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(file), framework="pt") as data:
            yield list(data.keys()), data.get_tensor
        return
    import torch

    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    named = {name.removeprefix("module."): value for name, value in loaded.get("state_dict", loaded).items()}
    yield list(named), named.__getitem__


_IMAGE = re.compile(r"^visual\.")
_TEXT = re.compile(r"^(?=(transformer|token_embedding|positional_embedding|ln_final|text_projection)\b)")
_VISION = re.compile(r"^(vision_model\.|visual_projection\.|embeddings\.|encoder\.|pre_layrnorm\.|post_layernorm\.)")
_RENAMED = (
    (r"^vision_model\.", ""),
    (r"^embeddings\.class_embedding$", "class_embedding"),
    (r"^embeddings\.patch_embedding\.weight$", "conv1.weight"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^pre_layrnorm\.", "ln_pre."),
    (r"^post_layernorm\.", "ln_post."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)


def _from_transformers(given: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """transformers' CLIP vision tensors under open_clip's names; there q, k and v are one matrix."""
    import torch

    apart: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in given.items():
        if name == "visual_projection.weight":
            yield "proj", value.T.contiguous()
            continue
        if name.endswith("position_ids"):
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        if match := re.fullmatch(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            apart.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = value
        else:
            yield name, value
    for name, parts in apart.items():
        yield name, torch.cat([parts["q"], parts["k"], parts["v"]])
