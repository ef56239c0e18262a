"""Weights in the models folders under whatever name: known by a name however it is spelt, or by what is in the file.

Names and shapes tell architectures apart, not the trainings of one.  Only where people have one training of an
architecture a file is taken for it; of others (OpenAI's and LAION's ViT-L/14) only the name can tell.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
FOLDERS_DEEP, ENTRIES = 4, 20_000  # folders below a models folder that are looked into, and entries of them
HEADER = 64 << 20  # bytes; that of a model with 10,000 tensors has one million
#: Names that say nothing: that of the folder counts.
GENERIC = {"model", "pytorchmodel", "openclipmodel", "openclippytorchmodel", "diffusionpytorchmodel"}
#: The trainings that everybody means by an architecture of these shapes (IP-Adapter's), and signs of others.
ONLY = {"ViT-H-14-laion2b_s32b_b79k", "ViT-bigG-14-laion2b_s39b_b160k"}
_OTHERS = re.compile(
    r"metaclip|dfn|datacomp|openai|quickgelu|altogether|commonpool|eva|clipa|siglip|pickscore|hps", re.IGNORECASE
)


def files(folders: Sequence[Path]) -> Iterator[Path]:
    """The weights in models folders and the folders in them, in the order of their names; a bounded number."""
    for folder in folders:
        left = ENTRIES
        for root, below, names in os.walk(folder, followlinks=True):
            here = Path(root)
            below[:] = sorted(name for name in below if not name.startswith("."))
            if len(here.relative_to(folder).parts) >= FOLDERS_DEEP:
                below.clear()
            left -= len(names) + len(below)
            yield from (here / name for name in sorted(names) if name.lower().endswith(SUFFIXES))
            if left < 0:
                log.info("%s holds too many files to look through", folder)
                break


def named(found: Iterator[Path], names: Sequence[str]) -> Iterator[Path]:
    """Those of files that go by one of those names, in any case and punctuation, or whose folder does."""
    wanted = {_squeezed(name) for name in names}
    for file in found:
        name = _squeezed(file.stem)
        if name in wanted or (name in GENERIC and wanted & set(_folder_names(file.parent))):
            yield file


def model_folders(folders: Sequence[Path], repository: str) -> Iterator[Path]:
    """The folders of a transformers model in models folders: named as its repository is, with its owner or without, or as
    the Hugging Face cache has it."""
    name = _squeezed(repository.split("/")[-1])
    for folder in folders:
        for root, below, files_here in os.walk(folder, followlinks=True):
            here = Path(root)
            below[:] = sorted(each for each in below if not each.startswith("."))
            if len(here.relative_to(folder).parts) >= FOLDERS_DEEP:
                below.clear()
            if "config.json" in files_here and here != folder and name in _folder_names(here, repository.split("/")[0]):
                yield here


def _folder_names(folder: Path, owner: str = "") -> list[str]:
    """What a model in a folder may be called after it, also in the Hugging Face cache's form."""
    cache = next((each.name for each in (folder, *folder.parents) if each.name.startswith("models--")), "")
    names = [folder.name, cache.split("--")[-1]] + ([folder.name.removeprefix(owner)] if owner else [])
    return [_squeezed(name) for name in names]


def alike(found: Iterator[Path], name: str, config: Mapping[str, Any], projected: bool) -> Iterator[Path]:
    """Those of files whose image tower has the shapes of open_clip's ``config``, if that says which ``name`` they are."""
    if name not in ONLY:
        return
    for file in found:
        if not _OTHERS.search(f"{file.parent.name}/{file.name}"):
            shapes = _image_shapes(file)
            if shapes is not None and _fits(shapes, config, projected):
                log.warning("%s is taken for %s, whose shapes it has", file, name)
                yield file


def _squeezed(name: str) -> str:
    """Without case, punctuation, and what tells only how numbers are kept, or that it was downloaded twice."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"([\W_]*(fp16|fp32|bf16|\(\d+\)))+$", "", name.lower()))


def _image_shapes(file: Path) -> dict[str, list[int]] | None:
    """The shapes of the tensors in a file, of which only its head is read; None for what is none."""
    try:
        return _header(file) if file.suffix.lower() == ".safetensors" else _torch_shapes(file)
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is not what is looked for
        log.info("%s: %s", file, error)
        return None


def _header(file: Path) -> dict[str, list[int]] | None:
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if length > HEADER:
            return None
        header = json.loads(data.read(length))
    return {name: list(value["shape"]) for name, value in header.items() if name != "__metadata__"}


def _torch_shapes(file: Path) -> dict[str, list[int]] | None:
    if not zipfile.is_zipfile(file):  # older files are read only as a whole
        return None
    import torch

    loaded = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    return {name: list(value.shape) for name, value in loaded.get("state_dict", loaded).items()}


def _fits(shapes: Mapping[str, list[int]], config: Mapping[str, Any], projected: bool) -> bool:
    vision = config["vision_cfg"]
    if not isinstance(vision["layers"], int):
        return False
    width, patch = vision["width"], vision["patch_size"]
    places = (vision["image_size"] // patch) ** 2 + 1
    inner = int(width * vision.get("mlp_ratio", 4.0))
    ours, theirs = "visual.transformer.resblocks.", "vision_model.encoder.layers."
    # under open_clip's names, and under transformers'
    for prefix, parts, projection, shape in (
        (
            ours,
            {
                "visual.class_embedding": [width],
                "visual.conv1.weight": [width, 3, patch, patch],
                "visual.positional_embedding": [places, width],
                f"{ours}0.mlp.c_fc.weight": [inner, width],
            },
            "visual.proj",
            [width, config["embed_dim"]],
        ),
        (
            theirs,
            {
                "vision_model.embeddings.class_embedding": [width],
                "vision_model.embeddings.patch_embedding.weight": [width, 3, patch, patch],
                "vision_model.embeddings.position_embedding.weight": [places, width],
                f"{theirs}0.mlp.fc1.weight": [inner, width],
            },
            "visual_projection.weight",
            [config["embed_dim"], width],
        ),
    ):
        layers = {name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)}
        has = shapes.get(projection)
        if (
            all(shapes.get(name) == expected for name, expected in parts.items())
            and len(layers) == vision["layers"]
            and (has == shape or (has is None and not projected))
        ):
            return True
    return False
