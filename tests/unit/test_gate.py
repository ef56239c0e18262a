"""The nodes that sync inside ComfyUI, and that let pass what is like references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Drawn
from tests.pack import Interruption, in_comfyui, load_pack, pack_module

PACK = load_pack()
SHARED: Any = pack_module("nodes.shared")
ERRORS: Any = pack_module("luna_dt.errors")
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
AWAY = "http://127.0.0.1:9"


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Interruption, list[tuple[int, int]]]:
    """ComfyUI's flag, and what its progress bar was told."""
    return in_comfyui(monkeypatch, tmp_path)


# -- sync ---------------------------------------------------------------------------------------------


def sync() -> str:
    made = NODES["LunaDTSync"]().run()
    (told,) = made["result"]
    assert made["ui"]["text"] == [told]
    return str(told)


def test_a_sync_inside_comfyui_tells_what_has_changed(
    up: Path, comfy: tuple[Interruption, list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = sync()
    assert "images: 100 new; 100 in all" in told.splitlines()
    assert "embeddings.visual: 100 new; 100 in all" in told.splitlines()
    assert sync() == "nothing has changed"
    options = NODES["LunaDTClusterSampler"].INPUT_TYPES()["required"]["cluster"][1]["options"]
    assert options[0] == "1: Luna"  # there without a restart
    monkeypatch.setenv("DT_API_URL", AWAY)
    assert NODES["LunaDTPromptInjector"]().run(image_id=4)[0]


def test_a_sync_without_dt_says_so_at_once(up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DT_API_URL", AWAY)
    with pytest.raises(ERRORS.Unreachable, match="does not answer"):
        sync()
    with pytest.raises(ERRORS.NotAllowed):
        NODES["LunaDTSync"]().run(api_url="http://stranger.example")


# -- gate ---------------------------------------------------------------------------------------------


def gate(images: list[torch.Tensor], **given: Any) -> dict[str, Any]:
    node = NODES["LunaDTLikenessGate"]
    types = node.INPUT_TYPES()
    filled = {name: [spec[1]["default"]] for name, spec in types["required"].items() if "default" in spec[1]}
    made = node().run(images=images, **{**filled, **given})
    out = dict(zip(node.RETURN_NAMES, made["result"], strict=True))
    assert made["ui"]["text"] == [out["report"]]
    return {**out, "ui": made["ui"]}


def pictures(drawn: Drawn, *image_ids: int) -> torch.Tensor:
    found = []
    for image_id in image_ids:
        with Image.open(drawn.drawings[image_id - 1].path) as picture:
            found.append(np.asarray(picture.resize((256, 256)), np.float32) / 255)
    return torch.from_numpy(np.stack(found))


def by_subject(drawn: Drawn, subject: str) -> list[int]:
    return [i + 1 for i, drawing in enumerate(drawn.drawings) if drawing.scene.subject == subject]


def test_those_that_are_like_enough_pass_and_the_others_come_out_below(
    down: Path, drawn: Drawn, comfy: tuple[Interruption, list[tuple[int, int]]]
) -> None:
    cats, cars = by_subject(drawn, "cat"), by_subject(drawn, "car")
    batch = pictures(drawn, cars[0], cats[1], cars[1], cats[2])
    out = gate([batch], references=[pictures(drawn, cats[1])], threshold=[-1.0], best=[1])
    assert (out["like_count"], out["others_count"]) == (1, 3)
    assert torch.equal(out["like"][0], batch[1:2])
    assert torch.equal(out["others"][0], batch[[0, 2, 3]])
    assert max(range(4), key=lambda i: out["scores"][i]) == 1
    assert out["scores"][1] > 0.99
    assert out["report"].startswith("1 of 4 are like enough (at least -1, the best 1)")
    assert out["ui"]["images"][0]["type"] == "temp"


@pytest.mark.parametrize(("threshold", "like"), [(-1.0, 2), (1.01, 0)])
def test_an_output_without_a_picture_is_blocked(
    down: Path, drawn: Drawn, comfy: tuple[Interruption, list[tuple[int, int]]], threshold: float, like: int
) -> None:
    batch = pictures(drawn, 1, 2)
    out = gate([batch], reference_ids=["1-3"], threshold=[threshold])
    assert out["like_count"] == like
    empty, full = (out["others"], out["like"]) if like else (out["like"], out["others"])
    assert [type(each).__name__ for each in empty] == ["Blocker"]
    assert empty[0].message is None  # with one, the page would show an error
    assert torch.equal(full[0], batch)


def test_references_are_images_of_dt_or_a_cluster_or_all_of_them(down: Path, drawn: Drawn) -> None:
    cats, cars = by_subject(drawn, "cat"), by_subject(drawn, "car")
    batch = pictures(drawn, cars[0], cats[3])
    stored = gate([batch], reference_ids=[f"{cats[0]}, {cats[1]}"])["scores"]
    clustered = gate([batch], cluster=["1: Luna (4)"])["scores"]
    mean = gate([batch], cluster=["1: Luna"], compare=["mean"])["scores"]
    for scores in (stored, clustered, mean):
        assert scores[1] > scores[0]
    every = gate([batch], cluster=["1: Luna"], reference_ids=[str(cars[0])])["scores"]
    assert every[0] > 0.97  # itself, but for the size
    assert every[1] == pytest.approx(clustered[1], abs=1e-5)
    query = gate([batch], reference_ids=["car"])["scores"]
    assert query[0] > query[1]


def test_pictures_of_several_sizes_come_and_go_as_a_list(down: Path, drawn: Drawn) -> None:
    small = pictures(drawn, 1, 2)[:, ::2, ::2]
    large = pictures(drawn, 3)
    broken = large.clone()
    broken[0, 0, 0, 0] = float("nan")
    references = [pictures(drawn, 1), pictures(drawn, 3)[:, ::2, ::2]]
    out = gate([small, large, broken], references=references, threshold=[-1.0])
    assert [len(each) for each in out["like"]] == [2, 1]
    assert out["like"][1] is not broken
    assert torch.equal(out["like"][1], large)
    assert out["others_count"] == 1  # what is no picture never passes
    assert len(out["scores"]) == 4


def test_the_gate_says_what_is_missing(down: Path, drawn: Drawn) -> None:
    batch = pictures(drawn, 1)
    with pytest.raises(ERRORS.BadInput, match="give references, reference_ids or a cluster"):
        gate([batch])
    with pytest.raises(ERRORS.UnknownCluster, match=r"'77: Gone' is there no more"):
        gate([batch], cluster=["77: Gone"])
    with pytest.raises(ERRORS.BadInput, match="no image fits"):
        gate([batch], reference_ids=["a dragon"])
    validate = NODES["LunaDTLikenessGate"].VALIDATE_INPUTS
    assert validate(cluster=["none"]) is True
    assert validate(cluster=["77: Gone"]) is True
    assert "choose one" in validate(cluster=["Loading..."])
