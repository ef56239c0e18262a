"""Where a model's weights come from, and only the tensors of the tower that is needed.

In this order: the tiny model that ships with the package; the models folders (``LUNA_DT_MODELS``, and
inside ComfyUI its own), under known names, else as lookalike.py knows them; the Hugging Face cache; a download.  Without a network the last one ends in an
error that names file, folder and command, not in a long wait.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import MissingExtra, WeightsError
from ..identity import Identity
from ..memory import is_out_of_memory
from . import lookalike

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

TINY = Path(__file__).parent / "tiny"
TINY_ARCHITECTURE = "luna-tiny"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin")
SENTENCE_FILES = ("model.safetensors", "pytorch_model.bin")
#: Pixel mean and standard deviation of OpenAI's CLIP, which open_clip's models share unless they say otherwise.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
READ = 64 << 20  # bytes read from a mapped file before it is opened anew: its pages count until it is closed

#: SDXL's two text encoders, which DT takes prompts' vectors from: the name ComfyUI's users have the file under,
#: where it is in SDXL's repository, and whether its activation is OpenAI's quick GELU.
SDXL = {
    "ViT-bigG-14": ("clip_g.safetensors", "text_encoder_2/model.safetensors", False),
    "ViT-L-14": ("clip_l.safetensors", "text_encoder/model.safetensors", True),
}
SDXL_REPOSITORY = "stabilityai/stable-diffusion-xl-base-1.0"
#: Names beside the repository's own under which ComfyUI's users have an image tower.
ALIASES = {
    "ViT-bigG-14-laion2b_s39b_b160k": "clip_vision_g.safetensors",
    "ViT-L-14-openai": "clip-vit-large-patch14.safetensors",
}


@dataclass(frozen=True)
class Weights:
    """A model ready to be built: open_clip's ``config`` (embed_dim, vision_cfg, text_cfg), its pixel
    statistics, the file with its tensors, and its vocabulary if it has one of its own."""

    config: dict[str, Any] = field(repr=False)
    file: Path
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    vocabulary: Path | None = None


def find(identity: Identity, folders: Sequence[Path], may_download: bool = True) -> Weights:
    """The weights an identity names, holding its tower; raises WeightsError when they are not to be had."""
    if identity.architecture == TINY_ARCHITECTURE:
        return _from_folder(TINY)
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtra("open_clip", "clip") from error
    name = f"{identity.architecture}-{identity.weights}"
    for folder in folders:
        if (folder / name / "open_clip_config.json").is_file():
            return _from_folder(folder / name)
    config = open_clip.get_model_config(identity.architecture)
    if config is None:
        raise WeightsError(
            f"open_clip knows no architecture '{identity.architecture}'; put the model as a folder with "
            f"open_clip_config.json and open_clip_model.safetensors at {folders[0] / name}"
        )
    known = open_clip.get_pretrained_cfg(identity.architecture, identity.weights)
    names = [f"{name}.safetensors", *(f"{name}/{file}" for file in HUB_FILES), *filter(None, [ALIASES.get(name)])]
    files: tuple[str, ...] = HUB_FILES
    repository, quick = known.get("hf_hub", "").rstrip("/"), known.get("quick_gelu", False)
    if identity.weights == "sdxl" and identity.architecture in SDXL:
        alias, in_repository, quick = SDXL[identity.architecture]
        repository, files = SDXL_REPOSITORY, (in_repository,)
        names += [alias, f"{name}/{in_repository}"]
    elif repository:
        names.append(f"{repository.split('/')[-1]}.safetensors")
    if quick:
        config["quick_gelu"] = True
    here = [folder / each for folder in folders for each in names if (folder / each).is_file()]
    others = lookalike.named(lookalike.files(folders), [name, *(Path(each).stem for each in names if "/" not in each)])
    found = next((path for path in itertools.chain(here, others) if holds(path, identity.tower)), None)
    if found is None and identity.tower == "image" and not _cached(repository, files):
        projected = identity.output == "projected"
        found = next(lookalike.alike(lookalike.files(folders), name, config, projected), None)
    by_hand = f"put it at {folders[0] / (name + '.safetensors')}"
    if here:
        by_hand = f"{here[0]} holds no {identity.tower} tower; {by_hand}"
    found = found or _from_hub(repository, files, folders[0] / name, by_hand, may_download)
    return Weights(config, found, tuple(known.get("mean") or CLIP_MEAN), tuple(known.get("std") or CLIP_STD))


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


def _cached(repository: str, files: Sequence[str]) -> Path | None:
    """The first of a repository's files that was downloaded before."""
    return next(filter(None, (hub.cached(repository, file) for file in files)), None) if repository else None


def _from_hub(repository: str, files: Sequence[str], folder: Path, by_hand: str, may_download: bool) -> Path:
    if not repository:
        raise WeightsError(
            f"the weights {folder.name} are not here and open_clip knows no place to load them from; {by_hand}"
        )
    found = _cached(repository, files)
    instead = f"{by_hand}, or {hub.by_hand(repository, [files[0]], folder)}"
    if not found and not may_download:
        raise WeightsError(f"{files[0]} of {repository} is not on this machine; {instead}")
    return found or hub.download(repository, files[0], f"{files[0]} of {repository}", instead)


def find_sentence_model(repository: str, folders: Sequence[Path], may_download: bool = True) -> Path:
    """The folder of a sentence-transformers model, as its repository has it; raises WeightsError.

    Without ``modules.json``, and what that names, it would be loaded with another way of pooling, and give other vectors.
    """
    to = folders[0] / repository.split("/")[-1]
    patterns = ("*.json", "*.txt", "1_Pooling/*", "model.safetensors")
    instead = f"put its files into {to}, or {hub.by_hand(repository, [], to)}"
    for folder in lookalike.model_folders(folders, repository):
        if lacking := _lacking(folder):
            raise WeightsError(f"{folder} lacks {lacking}, without which the model is another; {instead}")
        return folder
    return hub.folder(repository, patterns, SENTENCE_FILES, _lacking, instead, may_download)


def _lacking(folder: Path) -> str:
    """The file that a sentence-transformers model needs and a folder of it lacks, if there is one."""
    if not any((folder / file).is_file() for file in SENTENCE_FILES):
        return SENTENCE_FILES[0]
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [str(each["path"]) for each in modules if str(each["type"]).endswith("Pooling")]
    except OSError:
        return "modules.json"
    except (ValueError, TypeError, KeyError):
        return "a modules.json that can be read"
    return next((f"{path}/config.json" for path in paths if not (folder / path / "config.json").is_file()), "")


def holds(file: Path, tower: str) -> bool:
    """Whether a file has tensors of that tower; one that cannot be read counts, so that the loading names it."""
    try:
        with _opened(file) as (names, _):
            return any(_TOWERS[tower].match(name) for name in names)
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, loading it says so
        log.info("%s: %s", file, error)
        return True


def tensors(file: Path, tower: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies of the tensors of one tower ("image" or "text") in ``dtype``, under open_clip's names.

    safetensors, or a torch file read with ``weights_only=True``; transformers' names are converted.
    Beside the copies at most ``READ`` bytes of the file are held.
    Raises WeightsError naming the file when it is missing, damaged, quantised, or holds no such tower.
    """
    try:
        found = dict(_converted(_read(file, tower), dtype))
    except WeightsError:
        raise
    except FileNotFoundError as error:
        raise WeightsError(f"{file}: no such file") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise  # the file is none the worse for it
        raise WeightsError(f"{file} cannot be read ({error}); it may be damaged: delete it and get it again") from error
    if not found:
        raise WeightsError(f"{file} holds no {tower} tower that can be recognised")
    for name, value in found.items():
        # what was cut off while it was loaded may have its full length, and zeros at the end
        if not value.isfinite().all() or (value.ndim > 1 and not value.any()):
            raise WeightsError(f"{file} is damaged: {name} holds zeros or no numbers; delete it and get it again")
    return found


def _read(file: Path, tower: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A tower's tensors, each mapped from the file and to be copied before the next is asked for."""
    with _opened(file) as (names, _):
        wanted = [name for name in names if _TOWERS[tower].match(name)]
    while wanted:
        read = 0
        with _opened(file) as (_, tensor):
            while wanted and read < READ:
                name = wanted.pop(0)
                value = tensor(name)
                if not value.is_floating_point() and not name.endswith("position_ids"):
                    raise WeightsError(
                        f"{file} is quantised, {name} holds whole numbers: take the weights in fp16 or fp32"
                    )
                read += value.nbytes
                yield name, value
                del value


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tuple[list[str], Callable[[str], torch.Tensor]]]:
    """The names in a file, and how to read one of its tensors."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(str(file), framework="pt") as data:
            yield list(data.keys()), data.get_tensor
        return
    import torch

    zipped = zipfile.is_zipfile(file)  # older torch files are not, and cannot be mapped
    loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    named = {name.removeprefix("module."): value for name, value in loaded.get("state_dict", loaded).items()}
    yield list(named), named.__getitem__


#: open_clip's names of a tower's tensors, and transformers'
_TOWERS = {
    "image": re.compile(
        r"^(visual\.|vision_model\.|visual_projection\.|encoder\.layers\.|pre_layrnorm\.|post_layernorm\."
        r"|embeddings\.(class_embedding|patch_embedding|position_embedding)\b)"
    ),
    "text": re.compile(
        r"^((transformer\.(?=text_model))?text_model\.|transformer\.resblocks\."
        r"|(token_embedding|positional_embedding|ln_final|text_projection)\b)"
    ),
}
_RENAMED = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^visual\.", ""),
        (r"^(transformer\.)?(vision|text)_model\.", ""),
        (r"^embeddings\.class_embedding$", "class_embedding"),
        (r"^embeddings\.patch_embedding\.weight$", "conv1.weight"),
        (r"^embeddings\.token_embedding\.", "token_embedding."),
        (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
        (r"^pre_layrnorm\.", "ln_pre."),
        (r"^post_layernorm\.", "ln_post."),
        (r"^final_layer_norm\.", "ln_final."),
        (r"^encoder\.layers\.", "transformer.resblocks."),
        (r"\.layer_norm([12])\.", r".ln_\1."),
        (r"\.mlp\.fc1\.", ".mlp.c_fc."),
        (r"\.mlp\.fc2\.", ".mlp.c_proj."),
        (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
    )
)
#: transformers' linear projections, which open_clip has as matrices to multiply with from the right
_PROJECTIONS = {"visual_projection.weight": "proj", "text_projection.weight": "text_projection"}
_QKV = re.compile(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def _converted(given: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """Copies of the tensors under open_clip's names; there queries, keys and values are one matrix."""
    import torch

    apart: dict[str, tuple[torch.Tensor, set[str]]] = {}
    for name, value in given:
        if name.endswith("position_ids"):
            continue
        if name in _PROJECTIONS:
            yield _PROJECTIONS[name], value.T.to(dtype, copy=True, memory_format=torch.contiguous_format)
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        match = _QKV.fullmatch(name)
        if not match:
            yield name, value.to(dtype, copy=True)
            continue
        whole, rows = f"{match[1]}.attn.in_proj_{match[3]}", len(value)
        if whole not in apart:  # filled in place: parts put together afterwards would be held twice
            apart[whole] = torch.empty((3 * rows, *value.shape[1:]), dtype=dtype), set()
        matrix, parts = apart[whole]
        matrix["qkv".index(match[2]) * rows :][:rows].copy_(value)
        parts.add(match[2])
        if len(parts) == 3:
            yield whole, apart.pop(whole)[0]
