"""Weights in the models folders under names of their users' own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("open_clip")

import torch

from luna_dt.errors import WeightsError
from luna_dt.identity import DT_IDENTITIES, Identity
from luna_dt.models import lookalike, weights

VISUAL = DT_IDENTITIES["visual"]


def header(file: Path, shapes: dict[str, list[int]]) -> Path:
    """A safetensors file with those tensors, as far as its header says."""
    at, said = 0, dict[str, Any]()
    for name, shape in shapes.items():
        said[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at]}
    text = json.dumps(said).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    return file


def tower(width: int = 1280, layers: int = 32, patch: int = 14, side: int = 224, projection: int = 1024,
          form: str = "transformers", ratio: float = 4) -> dict[str, list[int]]:  # fmt: skip
    places, inner = (side // patch) ** 2 + 1, int(width * ratio)
    if form == "transformers":
        shapes = {
            "vision_model.embeddings.class_embedding": [width],
            "vision_model.embeddings.patch_embedding.weight": [width, 3, patch, patch],
            "vision_model.embeddings.position_embedding.weight": [places, width],
            "visual_projection.weight": [projection, width],
        }
        return shapes | {f"vision_model.encoder.layers.{i}.mlp.fc1.weight": [inner, width] for i in range(layers)}
    shapes = {
        "visual.class_embedding": [width],
        "visual.conv1.weight": [width, 3, patch, patch],
        "visual.positional_embedding": [places, width],
        "visual.proj": [width, projection],
    }
    return shapes | {f"visual.transformer.resblocks.{i}.mlp.c_fc.weight": [inner, width] for i in range(layers)}


@pytest.mark.parametrize("form", ["transformers", "open_clip"])
@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "ip adapter/image_encoder/model.safetensors", "a/b/c/Ünï.safetensors"]
)
def test_a_file_is_known_by_its_shapes(name: str, form: str, tmp_path: Path, empty_hub: Path) -> None:
    header(tmp_path / "models" / "another.safetensors", tower(width=1024, layers=24, projection=768, form=form))
    (tmp_path / "models" / "broken.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "models" / "list.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    file = header(tmp_path / "models" / name, tower(form=form))
    assert weights.find(VISUAL, [tmp_path / "nowhere", tmp_path / "models"]).file == file


@pytest.mark.parametrize(
    "changes",
    [{"width": 1664}, {"layers": 31}, {"layers": 33}, {"patch": 16}, {"side": 336}, {"projection": 1280}, {"ratio": 3}],
)
@pytest.mark.parametrize("form", ["transformers", "open_clip"])
def test_another_model_is_never_taken(changes: dict[str, Any], form: str, tmp_path: Path, empty_hub: Path) -> None:
    header(tmp_path / "encoder.safetensors", tower(form=form, **changes))
    with pytest.raises(WeightsError):
        weights.find(VISUAL, [tmp_path])


@pytest.mark.parametrize(
    "name",
    ["metaclip-h14.safetensors", "DFN5B/model.safetensors", "PickScore_v1/model.safetensors", "HPS_v2.1.safetensors"],
)
def test_another_training_of_the_same_shapes_is_not_taken(name: str, tmp_path: Path, empty_hub: Path) -> None:
    header(tmp_path / name, tower())
    with pytest.raises(WeightsError):
        weights.find(VISUAL, [tmp_path])


def test_where_shapes_do_not_tell_trainings_apart_nothing_is_guessed(tmp_path: Path, empty_hub: Path) -> None:
    file = header(tmp_path / "l.safetensors", tower(width=1024, layers=24, projection=768))
    openai = Identity("ViT-L-14", "openai", "image", "projected", "squash", 768)
    with pytest.raises(WeightsError):
        weights.find(openai, [tmp_path])
    named = file.rename(tmp_path / "CLIP_ViT_Large_Patch14.safetensors")
    assert weights.find(openai, [tmp_path]).file == named


def test_only_what_is_projected_needs_a_projection(tmp_path: Path, empty_hub: Path) -> None:
    shapes = tower()
    del shapes["visual_projection.weight"]
    file = header(tmp_path / "pooled.safetensors", shapes)
    assert weights.find(VISUAL, [tmp_path]).file == file
    with pytest.raises(WeightsError):
        weights.find(Identity("ViT-H-14", "laion2b_s32b_b79k", "image", "projected", "squash", 1024), [tmp_path])


@pytest.mark.parametrize("name", [
    "deep/er/clip_vit_h_14_laion2b_s32b_b79k.safetensors",
    "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K/snapshots/abc/open_clip_pytorch_model.bin",
    "CLIP-ViT-H-14-laion2B-s32B-b79K/pytorch_model.fp16.bin", "CLIP-ViT-H-14-laion2B-s32B-b79K_fp16 (1).bin",
    "CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_pytorch_model.bin", "ViT-H-14.laion2B.s32B.b79K.safetensors",
])  # fmt: skip
def test_a_name_is_known_however_it_is_spelt(name: str, tmp_path: Path, empty_hub: Path) -> None:
    file = header(tmp_path / name, {"vision_model.embeddings.class_embedding": [3]})
    assert weights.find(VISUAL, [tmp_path]).file == file


def test_no_folder_is_walked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    header(tmp_path / "1.safetensors", {})
    found = list(lookalike.files([tmp_path, tmp_path / "nowhere"]))
    assert len(found) == lookalike.FOLDERS_DEEP + 1
    monkeypatch.setattr(lookalike, "ENTRIES", 2)
    assert len(list(lookalike.files([tmp_path]))) <= 2


def test_a_torch_file_is_known_by_its_shapes(tmp_path: Path, empty_hub: Path) -> None:
    file = tmp_path / "models" / "SD1.5" / "pytorch_model.bin"
    file.parent.mkdir(parents=True)
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in tower().items()}, file)
    assert weights.find(VISUAL, [tmp_path / "models"]).file == file
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in tower(layers=31).items()}, file)
    (file.parent / "old.pth").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(WeightsError):
        weights.find(VISUAL, [tmp_path / "models"])


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "model.safetensors", "pytorch_model.bin"])
def test_a_cache_that_was_copied_is_used(file: str, tmp_path: Path, empty_hub: Path) -> None:
    repository = empty_hub / "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K"
    there = header(repository / "snapshots" / "abc" / file, tower())  # without refs, and no link to a blob
    assert weights.find(VISUAL, [tmp_path / "nowhere"]).file == there


BGE = "BAAI/bge-large-en-v1.5"


def sentence_model(folder: Path, *without: str, file: str = "model.safetensors") -> Path:
    modules = [{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}]
    texts = {"config.json": "{}", "modules.json": json.dumps(modules), "1_Pooling/config.json": "{}", file: ""}
    for name, text in texts.items():
        if name not in without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("place", [
    "bge-large-en-v1.5", "BAAI/bge-large-en-v1.5", "BAAI_bge-large-en-v1.5", "sentence/BGE Large EN v1.5",
    "models--BAAI--bge-large-en-v1.5/snapshots/abc",
])  # fmt: skip
def test_a_sentence_model_is_found_where_people_have_it(place: str, file: str, tmp_path: Path, empty_hub: Path) -> None:
    for folder in (tmp_path / "models", empty_hub):
        if folder == empty_hub and "snapshots" not in place:
            continue
        sentence_model(folder / "models--BAAI--bge-small-en-v1.5" / "snapshots" / "abc")  # another
        there = sentence_model(folder / place, file=file)
        assert weights.find_sentence_model(BGE, [tmp_path / "models"], False) == there
        shutil.rmtree(folder)


@pytest.mark.parametrize("lacking", ["modules.json", "1_Pooling/config.json", "model.safetensors"])
def test_a_sentence_model_without_a_part_is_not_taken(lacking: str, tmp_path: Path, empty_hub: Path) -> None:
    sentence_model(empty_hub / "models--BAAI--bge-large-en-v1.5" / "snapshots" / "abc", lacking)
    with pytest.raises(WeightsError, match="is not on this machine"):
        weights.find_sentence_model(BGE, [tmp_path / "models"], False)
    sentence_model(tmp_path / "models" / "bge-large-en-v1.5", lacking)
    with pytest.raises(WeightsError, match=f"lacks {lacking}"):
        weights.find_sentence_model(BGE, [tmp_path / "models"], False)
