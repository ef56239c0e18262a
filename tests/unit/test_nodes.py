"""The pack, loaded as ComfyUI loads it, and every node run without ComfyUI: DT up, and DT down after a sync."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import psycopg
import pytest
import torch
from PIL import Image

from luna_dt import Library
from luna_dt.demo import database, served
from luna_dt.provenance import graph as graphs
from luna_dt.provenance import parameters
from luna_dt.provenance.picture import read as read_picture
from luna_dt.records import Batch, Captions, Cluster
from tests.conftest import Drawn, mirror
from tests.pack import ROOT, in_comfyui, load_pack, pack_module
from tests.weights import figure

CONTRACT: dict[str, Any] = json.loads((ROOT / "tests" / "nodes_contract.json").read_text())
AWAY = "http://127.0.0.1:9"


PACK = load_pack()
SHARED: Any = pack_module("nodes.shared")
CLUSTERS: Any = pack_module("nodes.clusters")
ERRORS: Any = pack_module("luna_dt.errors")  # the pack's own copy of the library, as in ComfyUI
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS


def run(name: str, **inputs: Any) -> dict[str, Any]:
    """A node's outputs by their names, its required inputs' defaults filled in."""
    node = NODES[name]
    required = node.INPUT_TYPES()["required"]
    filled = {key: spec[1]["default"] for key, spec in required.items() if "default" in spec[1]}
    made = getattr(node(), node.FUNCTION)(**{**filled, **inputs})
    result = made["result"] if isinstance(made, dict) else made
    return dict(zip(node.RETURN_NAMES, result, strict=True))


@pytest.fixture(params=["up", "down"])
def either(request: pytest.FixtureRequest) -> Path:
    home: Path = request.getfixturevalue(request.param)
    return home


# -- the face ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CONTRACT))
def test_a_node_keeps_the_contract(name: str) -> None:
    given, node = CONTRACT[name], NODES[name]
    assert (given["display_name"], given["category"]) == (node.TITLE, node.CATEGORY)
    assert PACK.NODE_DISPLAY_NAME_MAPPINGS[name] == given["display_name"]
    count = len(given["return_types"])
    assert list(node.RETURN_TYPES[:count]) == given["return_types"]
    assert list(node.RETURN_NAMES[:count]) == given["return_names"]
    assert list(getattr(node, "OUTPUT_IS_LIST", ()))[:count] == (given["output_is_list"] or [])
    assert getattr(node, "OUTPUT_NODE", False) == given["output_node"]
    have = node.INPUT_TYPES()
    for part in ("required", "optional"):
        wanted = given["inputs"].get(part, {})
        assert list(have.get(part, {}))[: len(wanted)] == list(wanted)
        for key, (kind, options) in wanted.items():
            spec = have[part][key]
            if isinstance(kind, list):
                assert spec[0][: len(kind)] == kind
            else:
                assert spec[0] == kind.split(" ")[0]
            assert {k: spec[1][k] for k in options} == options
    assert set(have["required"]) == set(given["inputs"]["required"])  # what is added is optional


def test_every_input_and_output_is_explained() -> None:
    assert set(NODES) == {*CONTRACT, "LunaDTBatchQueue", "LunaDTSync", "LunaDTLikenessGate"}
    page = (ROOT / "docs" / "nodes.md").read_text(encoding="utf-8")
    for node in NODES.values():
        assert node.DESCRIPTION
        assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        types = node.INPUT_TYPES()
        assert all(spec[1].get("tooltip") for name, part in types.items() if name != "hidden" for spec in part.values())
        row = page.partition(f"\n| **{node.TITLE.removeprefix('Luna DT ')}** | ")[2].partition("\n")[0].split(" | ")
        assert set(re.findall(r"`(\w+)`", row[0])) == {*types["required"], *types.get("optional", {})}, node.TITLE
        assert set(re.findall(r"`(\w+)`", row[1])) == set(node.RETURN_NAMES), node.TITLE


def test_ids_and_seeds_are_not_cut_off_by_the_front_end() -> None:
    for node in NODES.values():
        for part in node.INPUT_TYPES().values():
            assert all("max" in spec[1] for spec in part.values() if spec[0] == "INT")


def test_loading_is_light_quiet_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os, socket\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = no\n"
        "LOAD\n"
        f"print([m for m in {('torch', 'open_clip', 'requests', 'PIL', 'psycopg', 'hnswlib', 'click')!r} if m in sys.modules])\n"
        "for node in loaded.PACK.NODE_CLASS_MAPPINGS.values(): node.INPUT_TYPES()\n"
    )
    (tmp_path / "code.py").write_text(code.replace("LOAD", LOADER))
    home = tmp_path / "home"
    environment = {**os.environ, "LUNA_DT_HOME": str(home), "DT_API_URL": AWAY}
    told = subprocess.check_output([sys.executable, str(tmp_path / "code.py")], env=environment, text=True)
    assert told.strip() == "[]"
    assert not home.exists()


LOADER = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("some_pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}])
class loaded: PACK = importlib.util.module_from_spec(spec)
sys.modules["some_pack"] = loaded.PACK
spec.loader.exec_module(loaded.PACK)
"""

# -- each node, DT up and DT down ---------------------------------------------------------------------


def test_image_loader(either: Path, drawn: Drawn) -> None:
    out = run("LunaDTImageLoader", image_id=31)
    drawing = drawn.drawings[30]
    with Image.open(drawing.path) as picture:
        expected = np.asarray(picture, np.float32) / 255
    assert out["image"].dtype == torch.float32
    np.testing.assert_array_equal(out["image"][0].numpy(), expected)
    assert (out["prompt"], out["negative"]) == (drawing.scene.caption, database.NEGATIVE)
    assert (out["width"], out["height"]) == drawing.size
    assert out["metadata"]["id"] == 31
    assert out["metadata"]["tags"][0] == drawing.scene.subject
    assert out["mask"].shape == (1, drawing.size[1], drawing.size[0])
    assert out["mask"].max() == 0


def test_image_loader_by_query(either: Path, drawn: Drawn) -> None:
    cats = [i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"]
    ids = [run("LunaDTImageLoader", query="cat", index=i)["metadata"]["id"] for i in range(len(cats))]
    assert ids == cats
    with pytest.raises(ERRORS.NotFound, match=f"finds {len(cats)} pictures"):
        run("LunaDTImageLoader", query="cat", index=len(cats))
    with pytest.raises(ERRORS.BadInput, match="image_id is 0"):
        run("LunaDTImageLoader")


def test_prompt_injector(either: Path, drawn: Drawn) -> None:
    d = drawn.drawings[3]
    out = run("LunaDTPromptInjector", image_id=4)
    assert out == {
        "prompt": d.scene.caption, "negative": database.NEGATIVE, "width": d.size[0], "height": d.size[1],
        "cfg": 7.0, "steps": d.steps, "sampler": d.sampler, "model": "drawings_v1",
    }  # fmt: skip
    assert run("LunaDTPromptInjector", image_id=4, prompt_override="mine", negative_override=" ")["prompt"] == "mine"
    assert run("LunaDTPromptInjector", image_id=4, negative_override="bad")["negative"] == "bad"


def test_caption_fetcher(either: Path, drawn: Drawn) -> None:
    subject = drawn.drawings[3].scene.subject
    out = run("LunaDTCaptionFetcher", image_id=4, prepend_trigger="luna_style, ")
    assert out["wd14_tags"].startswith(f"luna_style, {subject}, ")
    assert out["joycaption"].startswith("luna_style, A drawing that shows")
    assert run("LunaDTCaptionFetcher", image_id=4)["joytag_tags"].startswith(subject)


def reference(drawn: Drawn, *image_ids: int) -> torch.Tensor:
    pictures = []
    for image_id in image_ids:
        with Image.open(drawn.drawings[image_id - 1].path) as picture:
            pictures.append(np.asarray(picture.resize((256, 256)), np.float32) / 255)
    return torch.from_numpy(np.stack(pictures))


@pytest.mark.parametrize("engine", ["auto", "dt", "local"])
def test_similar_search_by_picture(up: Path, drawn: Drawn, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "local":
        with Library(up) as library:
            library.sync()
        monkeypatch.setenv("DT_API_URL", AWAY)
    image = reference(drawn, 31)
    out = run("LunaDTSimilarSearch", reference_image=image, top_k=4, min_similarity=0.1, engine=engine)
    assert out["count"] == 4
    assert out["image_ids"][0] == 31
    assert out["similarities"] == sorted(out["similarities"], reverse=True)
    assert out["similarities"][0] > 0.9
    assert [r["id"] for r in out["results_metadata"]["results"]] == out["image_ids"]
    assert out["prompts"] == [drawn.drawings[i - 1].scene.caption for i in out["image_ids"]]
    assert all(image.shape[0] == 1 and image.shape[3] == 3 for image in out["images"])
    subjects = [drawn.drawings[i - 1].scene.subject for i in out["image_ids"]]
    assert subjects.count(drawn.drawings[30].scene.subject) >= 3
    without = run(
        "LunaDTSimilarSearch", reference_image=image, reference_image_id=31, min_similarity=0.1, engine=engine
    )
    assert 31 not in without["image_ids"]


def test_similar_search_by_id_text_and_batch(either: Path, drawn: Drawn, server: str, tmp_path: Path) -> None:
    with Library(tmp_path / "patient", dt=server) as patient:  # DT's server loads its encoder, however long that takes
        patient.search(text="a cat", layer="semantic", engine="dt")
    by_id = run("LunaDTSimilarSearch", reference_image_id=31, top_k=3, min_similarity=0.1)
    assert 31 not in by_id["image_ids"]
    itself = run("LunaDTSimilarSearch", reference_image_id=31, top_k=3, exclude_source=False)
    assert itself["image_ids"][0] == 31
    caption = drawn.drawings[30].scene.caption
    by_text = run("LunaDTSimilarSearch", search_mode="semantic", text_query=caption, top_k=1)
    assert by_text["image_ids"] == [31]
    pair = run("LunaDTSimilarSearch", reference_image=torch.cat([reference(drawn, 31), reference(drawn, 32)]), top_k=2)
    assert set(pair["image_ids"]) == {31, 32}


def test_similar_search_never_gives_an_empty_list(down: Path, drawn: Drawn) -> None:
    image = reference(drawn, 31)
    noise = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ERRORS.NotFound, match="lower min_similarity"):
        run("LunaDTSimilarSearch", reference_image=noise, min_similarity=1.0)
    kept = run("LunaDTSimilarSearch", reference_image=noise, min_similarity=1.0, when_empty="reference")
    assert (kept["count"], kept["image_ids"], kept["images"][0] is noise) == (0, [0], True)
    with pytest.raises(ERRORS.BadInput, match="reference_image, a reference_image_id or a text_query"):
        run("LunaDTSimilarSearch")
    with pytest.raises(ERRORS.NotSearchable, match=r"layer 'style' is not synced.*(does|did) not answer"):
        run("LunaDTSimilarSearch", search_mode="style", reference_image_id=1)
    joint = run("LunaDTSimilarSearch", search_mode="composition", reference_image=image, min_similarity=0.0, top_k=3)
    assert joint["count"] == 3  # prompts, compared with the picture in the space they share


def test_similar_search_by_condition_collapsed_and_diverse(down: Path, drawn: Drawn) -> None:
    asked = {"reference_image_id": 31, "min_similarity": 0.0, "top_k": 100}
    cats = {i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"}
    whole = run("LunaDTSimilarSearch", **asked)
    out = run("LunaDTSimilarSearch", **asked, where='"cat"')
    assert out["image_ids"] == [i for i in whole["image_ids"] if i in cats]
    alike = run("LunaDTSimilarSearch", **asked, collapse=0.9)
    assert alike["count"] < whole["count"]
    assert sum(hit.get("stands_for", 1) for hit in alike["results_metadata"]["results"]) == whole["count"]
    for copies in ("seed", "file"):  # of which there are none, so that the cosine must not count
        assert run("LunaDTSimilarSearch", **asked, collapse=0.9, copies=copies)["count"] == whole["count"]
    diverse = run("LunaDTSimilarSearch", **{**asked, "top_k": 5}, diverse=0.7)
    assert diverse["image_ids"][0] == whole["image_ids"][0]
    assert diverse["image_ids"] != whole["image_ids"][:5]
    with pytest.raises(ERRORS.NotFound, match="that fits 'steps: 9999' is similar enough"):
        run("LunaDTSimilarSearch", **asked, where="steps: 9999")
    with pytest.raises(ERRORS.BadInput, match="not DT's"):
        run("LunaDTSimilarSearch", **asked, where="cat", engine="dt")
    with pytest.raises(ERRORS.IdentityMismatch, match="searched by a text: semantic, composition"):
        run("LunaDTSimilarSearch", text_query="a cat")


def test_a_hit_that_cannot_be_opened_is_kept_with_its_reason(down: Path, drawn: Drawn, tmp_path: Path) -> None:
    first = run("LunaDTSimilarSearch", reference_image_id=31, top_k=3, min_similarity=0.1)
    gone = drawn.drawings[first["image_ids"][1] - 1].path
    gone.rename(gone.with_suffix(".away"))
    try:
        out = run("LunaDTSimilarSearch", reference_image_id=31, top_k=3, min_similarity=0.1)
    finally:
        gone.with_suffix(".away").rename(gone)
    assert out["count"] == 2
    assert out["image_ids"] == [first["image_ids"][0], first["image_ids"][2]]
    assert "No such file" in out["results_metadata"]["results"][1]["not_opened"]


@pytest.mark.parametrize(
    ("name", "inputs", "count"),
    [
        ("LunaDTSimilarSearch", {"reference_image_id": 31, "top_k": 5, "min_similarity": 0.1}, 5),
        ("LunaDTClusterSampler", {"cluster": "1", "min_quality": 0, "sample_count": 4}, 4),
    ],
)
def test_comfyuis_progress_and_interruption_are_heeded_at_each_picture(
    down: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inputs: dict[str, Any], count: int
) -> None:
    class Interrupted(Exception):
        pass

    asked: list[int] = []
    done: list[int] = []
    until = count

    def ask() -> None:
        asked.append(len(asked))
        if len(asked) > until:
            raise Interrupted

    bar = SimpleNamespace(update=done.append)
    modules: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.model_management": {
            "get_torch_device": lambda: "cpu",
            "throw_exception_if_processing_interrupted": ask,
        },
        "comfy.utils": {"ProgressBar": lambda total: bar},
        "folder_paths": {"get_folder_paths": lambda kind: [], "get_temp_directory": lambda: str(tmp_path / "temp")},
    }
    for module, values in modules.items():
        fake = ModuleType(module)
        vars(fake).update(values)
        monkeypatch.setitem(sys.modules, module, fake)
        parent, _, child = module.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, fake)
    assert run(name, **inputs)["count"] == len(asked) == len(done) == count
    asked.clear()
    done.clear()
    until = 2
    with pytest.raises(Interrupted):
        run(name, **inputs)
    assert len(done) == 2


@pytest.mark.parametrize("sort", ["confidence", "quality", "random", "diverse"])
def test_cluster_sampler(down: Path, drawn: Drawn, sort: str) -> None:
    for label in ("1: Luna (4)", "1: Somebody else (57)", "1"):
        out = run("LunaDTClusterSampler", cluster=label, min_quality=0, sample_count=3, sort_by=sort, seed=5)
        assert out["count"] == len(out["images"]) == len(out["prompts"]) == 3
        assert {drawn.drawings[i - 1].scene.subject for i in out["image_ids"]} == {"cat"}
    with pytest.raises(ERRORS.NotFound, match="lower min_quality"):
        run("LunaDTClusterSampler", cluster="1", min_quality=99, sort_by=sort)


def test_cluster_sampler_asks_dt_where_nothing_is_synced(up: Path) -> None:
    assert run("LunaDTClusterSampler", cluster="2: Snorri (4)", min_quality=0)["count"] == 4
    with pytest.raises(ERRORS.UnknownCluster):
        run("LunaDTClusterSampler", cluster="99: Nobody (1)")


def test_cluster_labels_are_there_at_once(
    up: Path, down: Path, monkeypatch: pytest.MonkeyPatch, server: str, tmp_path: Path
) -> None:
    assert CLUSTERS.cluster_labels() == ["1: Luna", "2: Snorri", "3: unnamed"]  # from the mirror
    SHARED.close_libraries()
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(CLUSTERS, "ASK_EVERY", 0.0)
    assert CLUSTERS.cluster_labels() == [CLUSTERS.NO_CLUSTERS]  # nothing synced, DT away: never an error, never empty
    monkeypatch.setenv("DT_API_URL", server)
    SHARED.close_libraries()
    deadline = time.monotonic() + 20
    while CLUSTERS.cluster_labels() == [CLUSTERS.NO_CLUSTERS] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert CLUSTERS.cluster_labels()[0] == "1: Luna"  # asked in the background


def test_a_label_that_is_none_is_refused_before_the_run() -> None:
    validate = NODES["LunaDTClusterSampler"].VALIDATE_INPUTS
    assert validate(cluster="3: Luna (42)") is True
    assert validate(cluster=None) is True
    for label in ("Loading...", CLUSTERS.NO_CLUSTERS, ""):
        assert "choose one" in validate(cluster=label)


def test_connection_status(up: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run("LunaDTConnectionStatus")
    assert out["connected"] is True
    assert "nothing is synced yet" in out["status_message"]
    with Library(up) as library:
        library.sync()
    assert "visual: 100 vectors (100%), just now" in run("LunaDTConnectionStatus")["status_message"]
    monkeypatch.setenv("DT_API_URL", AWAY)
    out = run("LunaDTConnectionStatus")
    assert out["connected"] is False
    assert "synced: 100 images" in out["status_message"]


def canny(picture: Image.Image, **parameters: int) -> np.ndarray[Any, Any]:
    edges = cv2.Canny(np.asarray(picture.convert("RGB")), parameters.get("low", 100), parameters.get("high", 200))
    return np.repeat(edges[:, :, None], 3, axis=2).astype(np.float32) / 255


def test_controlnet_cache_makes_a_map_once(either: Path, drawn: Drawn) -> None:
    inputs = {"image_id": 41, "controlnet_type": "canny", "resolution": 0}
    with pytest.raises(ERRORS.MapMissing, match="none is to be made"):
        run("LunaDTControlNetCache", **inputs, generate_if_missing=False)
    first, again = run("LunaDTControlNetCache", **inputs), run("LunaDTControlNetCache", **inputs)
    assert (first["was_cached"], again["was_cached"], first["keypoints"]) == (False, True, "")
    with Image.open(drawn.drawings[40].path) as picture:
        expected = canny(picture)
    for out in (first, again):
        assert out["controlnet_image"].dtype == torch.float32
        np.testing.assert_array_equal(out["controlnet_image"][0].numpy(), expected)
    assert run("LunaDTControlNetCache", **inputs, generate_if_missing=False)["was_cached"]
    with pytest.raises(ERRORS.BadInput, match="image_id is 0"):
        run("LunaDTControlNetCache", controlnet_type="canny")


def test_controlnet_cache_maps_pictures_that_are_not_in_dt(down: Path) -> None:
    pair = torch.rand(2, 64, 128, 3, generator=torch.Generator().manual_seed(0)).mul(255).round().div(255)
    thresholds = {"low_threshold": 50, "high_threshold": 250}
    inputs = {"controlnet_type": "canny", "resolution": 0, "reference_image": pair, **thresholds}
    out = run("LunaDTControlNetCache", **inputs)
    assert out["controlnet_image"].shape == (2, 64, 128, 3)
    for source, found in zip(pair, out["controlnet_image"], strict=True):
        picture = Image.fromarray((source.numpy() * 255).round().astype(np.uint8))
        np.testing.assert_array_equal(found.numpy(), canny(picture, low=50, high=250))
    assert not out["was_cached"]
    half = {**inputs, "reference_image": torch.cat([pair[:1], 1 - pair[:1]])}
    assert not run("LunaDTControlNetCache", **half)["was_cached"]  # one of the two was made now
    assert run("LunaDTControlNetCache", **half)["was_cached"]


def test_controlnet_cache_gives_keypoints(down: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUNA_DT_MODELS", str(weights))
    image = torch.from_numpy(np.asarray(figure(368)[0], np.float32) / 255)[None]
    out = run("LunaDTControlNetCache", controlnet_type="openpose", reference_image=image)
    people = json.loads(out["keypoints"])["people"]
    assert len(people) == 1
    assert len(people[0]["pose_keypoints_2d"]) == 3 * 18
    assert out["controlnet_image"].max() > 0.5
    two = run("LunaDTControlNetCache", controlnet_type="openpose", reference_image=torch.cat([image, image * 0]))
    assert [len(each["people"]) for each in json.loads(two["keypoints"])] == [1, 0]


def test_controlnet_cache_says_what_it_needs(either: Path, empty_hub: Path) -> None:
    with pytest.raises(ERRORS.WeightsError, match=r"depth_zoe needs ZoeD_M12_N\.pt \(1443 MB\)"):
        run("LunaDTControlNetCache", image_id=42, controlnet_type="depth_zoe")
    with pytest.raises(ERRORS.BadInput, match="thresholds"):
        run("LunaDTControlNetCache", image_id=42, controlnet_type="canny", low_threshold=201)


GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dreams.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 2**63, "steps": 9, "cfg": 3.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 0.6,
            "model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0],
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0]}},
    "6": {"class_type": "LunaDTMetadataWriter", "inputs": {"image": ["5", 0]}},
}  # fmt: skip


def recorded() -> list[Any]:
    return [entry.generation for entry in SHARED.library().outbox.entries()]


def test_the_writer_records_each_picture_once(either: Path) -> None:
    image = torch.rand(2, 16, 24, 3, generator=torch.Generator().manual_seed(0))
    given = {"source_image_id": 5, "operation": "variation", "prompt": "a cat", "seed": 7, "metadata": {"id": 5}}
    first = run("LunaDTMetadataWriter", image=image, **given)
    assert first["image"] is image
    assert "2 records stored" in first["status"]
    again = run("LunaDTMetadataWriter", image=image, **given)  # run again: nothing new was made
    assert again["generation"] == first["generation"]
    made = recorded()
    assert [(m.source_image_id, m.operation, m.prompt, m.seed, m.width, m.height) for m in made] == [
        (5, "variation", "a cat", 7, 24, 16)
    ] * 2
    assert [m.extra_metadata["batch_index"] for m in made] == [0, 1]
    assert made[0].extra_metadata["metadata"] == {"id": 5}
    run("LunaDTMetadataWriter", image=image[:1].flip(1), **given, base=first["generation"], batch_id="b/3")
    third = recorded()[2]
    assert (third.base, third.batch_id, third.extra_metadata["batch_item"]) == (first["generation"], "b", 3)


def test_the_writer_takes_from_the_workflow_what_is_not_said(down: Path) -> None:
    image = torch.zeros(1, 8, 8, 3)
    run("LunaDTMetadataWriter", image=image, graph=GRAPH, unique_id="6", steps=30)
    made = recorded()[0]
    assert (made.prompt, made.negative_prompt, made.model) == ("a cat", "blurry", "dreams.safetensors")
    assert (made.seed, made.steps, made.cfg, made.denoise) == (2**63, 30, 3.5, 0.6)  # 30 was said
    assert made.extra_metadata == {"sampler": "euler", "scheduler": "karras"}
    told = replace(graphs.read(GRAPH, "6"), steps=30, width=8, height=8)
    assert parameters.write(told) == (
        "a cat\nNegative prompt: blurry\nSteps: 30, Sampler: euler, Schedule type: karras, CFG scale: 3.5, "
        f"Seed: {2**63}, Size: 8x8, Model: dreams.safetensors, Denoising strength: 0.6"
    )


def test_the_prompts_are_told_apart_through_a_controlnet() -> None:
    through = {"positive": ["2", 0], "negative": ["3", 0], "strength": 1.0}
    graph = {**GRAPH, "7": {"class_type": "ControlNetApplyAdvanced", "inputs": through}}
    graph["4"] = {
        "class_type": "KSampler",
        "inputs": {**GRAPH["4"]["inputs"], "positive": ["7", 0], "negative": ["7", 1]},
    }
    found = graphs.read(graph, "6")
    assert (found.prompt, found.negative) == ("a cat", "blurry")


def test_what_nobody_knows_is_no_value(down: Path) -> None:
    run("LunaDTMetadataWriter", image=torch.zeros(1, 8, 8, 3), prompt="a cat")
    made = recorded()[0]
    assert (made.negative_prompt, made.model, made.seed, made.steps, made.cfg, made.denoise) == (None,) * 6
    assert set(made.to_json()) == {
        "operation", "source_image_id", "prompt", "width", "height", "base", "output", "batch_id", "extra_metadata",
        "key", "id", "created",
    }  # fmt: skip


def test_an_input_that_is_linked_counts_though_its_value_be_the_default(down: Path) -> None:
    inputs = {"image": ["5", 0], "steps": ["7", 5], "cfg": ["7", 4], "negative": ["7", 1], "model": ["7", 7]}
    graph = {**GRAPH, "6": {"class_type": "LunaDTMetadataWriter", "inputs": inputs}}
    given = {"steps": 20, "cfg": 0.0, "negative": "", "model": ""}  # DT knows neither the CFG scale nor the model
    run("LunaDTMetadataWriter", image=torch.zeros(1, 8, 8, 3), graph=graph, unique_id="6", **given)
    made = recorded()[0]
    assert (made.steps, made.cfg, made.negative_prompt, made.model) == (20, 3.5, "", "dreams.safetensors")


def test_one_broken_picture_of_a_batch_is_told_and_the_others_are_recorded(down: Path) -> None:
    image = torch.rand(3, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    image[1, 2, 2, 0] = float("nan")
    out = run("LunaDTMetadataWriter", image=image, prompt="a cat")
    assert "2 records stored" in out["status"]
    assert "number 2 of the batch holds values that are no numbers" in out["status"]
    assert [made.extra_metadata["batch_index"] for made in recorded()] == [0, 2]
    with pytest.raises(ERRORS.BadInput, match=r"number 1 of the batch.*no picture to record"):
        run("LunaDTMetadataWriter", image=image[1:2])


def test_a_seed_that_is_only_noted_is_not_drawn_anew_by_the_page() -> None:
    for name in ("LunaDTMetadataWriter", "LunaDTClusterSampler"):
        assert NODES[name].INPUT_TYPES()["optional"]["seed"][1]["control_after_generate"] is False


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%date:yyyy-MM-dd%/x", "2026-03-04/x"),
        ("%date:yy.M.d hhmmss%", "26.3.4 050607"),
        ("%KSampler.seed%_%KSampler.cfg%", f"{2**63}_3.5"),
        ("%The model.ckpt_name%", "dreams_x.safetensors"),
        ("%Mine.text%", "a cat"),
        ("%KSampler.positive%", "%KSampler.positive%"),  # another node's to say
        (
            "%KSampler.none% %Nobody.seed% %width%x%height% %year% 100%",
            "%KSampler.none% %Nobody.seed% %width%x%height% %year% 100%",
        ),
        ("x_%batch_num%", "x_3"),
        ("", ""),
    ],
)
def test_names_are_filled_in_as_by_the_page(name: str, expected: str) -> None:
    filled = pack_module("nodes.file_names").filled
    loader = {"class_type": "L", "inputs": {"ckpt_name": "dreams/x.safetensors"}, "_meta": {"title": "The model"}}
    workflow = {
        "workflow": {"nodes": [{"id": 2, "title": "Mine", "properties": {"Node name for S&R": "CLIPTextEncode"}}]}
    }
    when = datetime(2026, 3, 4, 5, 6, 7)
    assert filled(name, {**GRAPH, "1": loader}, workflow, when, 3) == expected
    odd: list[Any] = [None, {}, [], {"1": None, "2": {"inputs": 3}}]
    for nothing in odd:
        assert isinstance(filled(name, nothing, {"workflow": {"nodes": [None, 3, {"id": []}]}}, when), str)


def test_the_writer_says_what_it_cannot_do(down: Path) -> None:
    image = torch.zeros(1, 8, 8, 3)
    with pytest.raises(ERRORS.BadInput, match="metadata given cannot be stored"):
        run("LunaDTMetadataWriter", image=image, metadata={"tensor": image})
    with pytest.raises(ERRORS.BadInput, match="only inside ComfyUI"):
        run("LunaDTMetadataWriter", image=image, filename_prefix="x")
    assert recorded() == []


@pytest.mark.parametrize(("kind", "quality"), [("png", 95), ("webp", 100), ("webp", 80), ("jpeg", 95)])
def test_a_saved_picture_tells_in_each_format_how_it_was_made(tmp_path: Path, kind: str, quality: int) -> None:
    pictures = pack_module("nodes.pictures")
    picture = Image.effect_noise((48, 32), 90).convert("RGB")
    text = "a cat, ünï 🦊\nSteps: 9, CFG scale: 3.5, Seed: 77, Size: 48x32"
    texts = {"prompt": json.dumps(GRAPH), "workflow": json.dumps({"nodes": ["ü"]})}
    pictures.write(picture, tmp_path / "told", kind, quality, text, texts)
    with (tmp_path / "told").open("rb") as data:
        told = read_picture(data)
    assert (told.width, told.height, told.made.prompt, told.made.seed) == (48, 32, "a cat, ünï 🦊", 77)
    pictures.write(picture, tmp_path / "graph", kind, quality, None, texts)  # then ComfyUI's own is what counts
    with (tmp_path / "graph").open("rb") as data:
        assert read_picture(data).made.prompt == "a cat"
    with Image.open(tmp_path / "told") as saved:
        assert saved.format == kind.upper()
        assert (saved.tobytes() == picture.tobytes()) == (kind == "png" or quality == 100)
        if kind != "png":  # where ComfyUI's page looks in a WebP
            assert saved.getexif()[0x0110] == f"prompt:{texts['prompt']}"
            assert saved.getexif()[0x010F] == f"workflow:{texts['workflow']}"


def test_a_jpeg_leaves_out_what_it_has_no_room_for(tmp_path: Path) -> None:
    texts = {"prompt": json.dumps(GRAPH), "workflow": "w" * 70_000}
    picture = Image.new("RGB", (8, 8))
    for kind, kept in (("jpeg", False), ("webp", True)):
        left_out = pack_module("nodes.pictures").write(
            picture, tmp_path / kind, kind, 90, "a cat\nSteps: 3, Seed: 5", texts
        )
        assert left_out == ([] if kept else ["workflow"])
        with Image.open(tmp_path / kind) as saved:
            assert (0x0110 in saved.getexif(), 0x010F in saved.getexif()) == (True, kept)
        with (tmp_path / kind).open("rb") as data:
            assert read_picture(data).made.seed == 5


def test_the_writer_says_what_a_jpeg_has_no_room_for(
    down: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_comfyui(monkeypatch, tmp_path)
    told = {"image": torch.zeros(1, 8, 8, 3), "filename_prefix": "made", "prompt": "a cat", "seed": 4, "steps": 9}
    told["extra_pnginfo"] = {"workflow": {"nodes": ["w" * 70_000]}}
    jpeg = run("LunaDTMetadataWriter", **told, file_format="jpeg")
    assert "no room for workflow: choose png or webp" in jpeg["status"]
    assert "no room" not in run("LunaDTMetadataWriter", **told, file_format="webp")["status"]


def test_a_batch_is_queued_only_inside_comfyui(down: Path) -> None:
    given = {"image_ids": ["1-5"], "operation": ["img2img"], "graph": [{"1": {"class_type": "X", "inputs": {}}}]}
    with pytest.raises(ERRORS.BadInput, match="only inside ComfyUI"):
        run("LunaDTBatchQueue", **given)
    with pytest.raises(ERRORS.BadInput, match="no image fits"):
        run("LunaDTBatchQueue", **{**given, "image_ids": ["a dragon"]})
    with pytest.raises(ERRORS.BadInput, match="Export"):
        run("LunaDTBatchQueue", **{**given, "graph": None})


# -- trust and change -------------------------------------------------------------------------------


def test_only_allowed_addresses_are_contacted(up: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    class Watched(socket.socket):
        def connect(self, to: Any) -> None:
            called.append(to)
            super().connect(to)

    monkeypatch.setattr(socket, "socket", Watched)
    for stranger in ("http://stranger.example:5000", "postgresql://stranger.example/x", "file:///etc/passwd", AWAY):
        with pytest.raises(ERRORS.NotAllowed):
            run("LunaDTImageLoader", image_id=1, api_url=stranger)
        assert run("LunaDTConnectionStatus", api_url=stranger)["connected"] is False
    assert called == []
    monkeypatch.setenv("DT_API_URL", AWAY)
    monkeypatch.setenv("LUNA_DT_ALLOWED", f"http://other.example; {server}/")
    assert run("LunaDTImageLoader", image_id=1, api_url=server)["metadata"]["id"] == 1
    with pytest.raises(ERRORS.UnknownImage):  # another DT's pictures do not mix with the configured one's
        run("LunaDTImageLoader", image_id=1)


def test_a_windows_path_is_found_through_the_path_map(
    postgres: str, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mnt" / "Ünï"
    folder.mkdir(parents=True)
    Image.new("RGBA", (6, 4), (200, 100, 50, 51)).save(folder / "x.png")
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        values = {"id": 1, "path": r"D:\Bilder\Ünï\x.png", "file_name": "x.png", "root_folder_id": 1, "folder_id": 1}
        dates = {"created_date": "2026-01-01", "modified_date": "2026-01-01"}
        database.insert(connection.cursor(), "image", {**values, **dates})
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DT_API_URL", f"{postgres}&schema={schema}")
    monkeypatch.setenv("LUNA_DT_PATH_MAP", rf"D:\bilder={tmp_path / 'mnt'}")
    out = run("LunaDTImageLoader", image_id=1)
    SHARED.close_libraries()
    np.testing.assert_allclose(out["image"][0, 0, 0].numpy(), np.array([200, 100, 50]) / 255, atol=1e-6)
    np.testing.assert_allclose(out["mask"].numpy(), 0.8, atol=1e-6)


def test_a_picture_on_dts_disk_alone_comes_through_its_server(
    postgres: str, schema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (6, 4), (200, 100, 50)).save(tmp_path / "x.png")
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        for i, name in ((1, "x.png"), (2, "gone.png")):
            values = {"id": i, "path": rf"D:\Bilder\{name}", "file_name": name, "root_folder_id": 1, "folder_id": 1}
            dates = {"created_date": "2026-01-01", "modified_date": "2026-01-01"}
            database.insert(connection.cursor(), "image", {**values, **dates})
    monkeypatch.setenv("LUNA_DT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_DT_PATH_MAP", rf"D:\Bilder={tmp_path}")  # the server's, who alone sees the disk
    with served(f"{postgres}&schema={schema}") as url:
        monkeypatch.delenv("LUNA_DT_PATH_MAP")
        monkeypatch.setenv("DT_API_URL", url)
        assert run("LunaDTImageLoader", image_id=1)["image"].shape == (1, 4, 6, 3)
        with pytest.raises(ERRORS.PictureMissing, match=r"path_map.*not to be found where the server runs"):
            run("LunaDTImageLoader", image_id=2)
    SHARED.close_libraries()


def test_is_changed_follows_the_record_and_the_layer_and_nothing_else(down: Path, server: str) -> None:
    def prints() -> list[str]:
        return [
            NODES["LunaDTImageLoader"].IS_CHANGED(image_id=3, api_url="", query="", index=0),
            NODES["LunaDTPromptInjector"].IS_CHANGED(image_id=4),
            NODES["LunaDTSimilarSearch"].IS_CHANGED(search_mode="visual", top_k=3),
            NODES["LunaDTClusterSampler"].IS_CHANGED(cluster="1"),
        ]

    before = prints()
    assert all(isinstance(text, str) and text for text in before)
    with Library(down, dt=server) as library:
        library.sync()  # nothing has changed, so nothing runs again
        assert prints() == before
        record = library.image(3)
        mirror(library, "images", Batch(np.array([3]), np.array([99]), [record]))
    after = prints()
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False, True, True]


def test_is_changed_follows_what_a_query_asks_for(down: Path) -> None:
    given: dict[str, dict[str, Any]] = {
        "LunaDTImageLoader": {"image_id": 0, "query": "tag: cat", "index": 0},
        "LunaDTSimilarSearch": {"search_mode": "visual", "where": "in_album: yes"},
        "LunaDTLikenessGate": {"layer": ["visual"], "reference_ids": ["tag: cat"]},
    }
    other = {"LunaDTImageLoader": {"query": "cat"}, "LunaDTSimilarSearch": {"where": ""},
             "LunaDTLikenessGate": {"reference_ids": ["12, 15-20"]}}  # fmt: skip
    linked = {"LunaDTImageLoader": {"query": None}, "LunaDTSimilarSearch": {"where": None},
              "LunaDTLikenessGate": {"reference_ids": [None]}}  # fmt: skip

    def prints(changes: dict[str, Any]) -> list[str]:
        return [NODES[name].IS_CHANGED(**{**inputs, **changes.get(name, {})}) for name, inputs in given.items()]

    def changed(kind: str, row: Any, changes: dict[str, Any]) -> list[bool]:
        before = prints(changes)
        assert before == prints(changes)
        with Library(down) as library:
            mirror(library, kind, Batch(np.array([3]), np.array([time.monotonic_ns()]), [row]))
        return [a != b for a, b in zip(before, prints(changes), strict=True)]

    tagged, album = Captions(3, tags=("cat",)), Cluster(3, "Luna", 1)
    assert changed("captions", tagged, {}) == [True, True, True]  # what a search gives has tags
    assert changed("clusters", album, {}) == [False, True, True]  # and the gate takes clusters
    assert changed("captions", tagged, other) == [True, True, False]
    assert changed("clusters", album, other) == [False, False, True]
    assert changed("captions", tagged, linked) == changed("clusters", album, linked) == [True, True, True]


def test_a_linked_id_and_one_that_is_not_mirrored_are_followed_too(
    drawn: Drawn, up: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = NODES["LunaDTCaptionFetcher"].IS_CHANGED

    def rate(rating: int) -> None:
        with psycopg.connect(drawn.address.replace("&schema=drawn", "")) as connection:
            connection.execute("UPDATE drawn.image SET rating = %s WHERE id = 60", [rating])

    before = drawn.drawings[59].rating
    rate(1)
    first = changed(image_id=60)  # asked in DT: nothing is synced
    assert changed(image_id=60) == first
    rate(2)
    assert changed(image_id=60) != first
    with Library(up) as library:
        library.sync()
        linked = changed(image_id=None)
        rate(before or 0)
        assert changed(image_id=None) == linked
        library.sync()
        assert changed(image_id=None) != linked


# -- in the page --------------------------------------------------------------------------------------


def widgets(name: str) -> dict[str, Any]:
    """A node's inputs that have a place among a saved workflow's values, in their order."""
    types = NODES[name].INPUT_TYPES()
    specs = {**types["required"], **types.get("optional", {})}
    plain = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
    return {key: spec for key, spec in specs.items() if isinstance(spec[0], list) or spec[0] in plain}


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node.js to run the page's part")
def test_a_workflow_saved_before_opens_with_its_values_in_their_places() -> None:
    kept = ROOT / "tests" / "formats" / "workflow_of_0_1_begun.json"
    program = (
        f"import {{ mendWorkflow }} from {json.dumps((ROOT / 'web' / 'old_values.mjs').as_uri())};\n"
        "import { readFileSync } from 'fs';\n"
        f"const workflow = JSON.parse(readFileSync({json.dumps(str(kept))}));\n"
        "for (const odd of [null, {}, { nodes: [null, {}, { type: 'LunaDTClusterSampler' }] }]) mendWorkflow(odd);\n"
        "mendWorkflow(workflow); const once = JSON.stringify(workflow);\n"
        "mendWorkflow(workflow); if (JSON.stringify(workflow) !== once) throw 'not the same twice';\n"
        "console.log(once);\n"
    )
    command = ["node", "--input-type=module", "-e", program]
    mended = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    nodes = {node["id"]: node for node in [*mended["nodes"], *mended["definitions"]["subgraphs"][0]["nodes"]]}
    sampler = {"cluster": "1: Luna (4)", "sample_count": 2, "min_quality": 0, "sort_by": "quality", "seed": 7}
    writer = {
        "source_image_id": 5, "operation": "img2img", "prompt": "a cat", "negative": "", "model": "dreams", "seed": 9,
        "steps": 30, "cfg": 4.5, "denoise": 0.6, "filename_prefix": "made/%date:yyyy-MM-dd%", "base": "", "batch_id": "",
    }  # fmt: skip
    for number, expected in ((1, sampler), (2, sampler), (3, writer)):
        node = nodes[number]
        named = zip(widgets(node["type"]), node["widgets_values"], strict=False)  # what came since keeps its default
        assert dict(named) == expected
    assert nodes[6]["widgets_values"][6:10] == [30, 4.5, 0.6, ""]
    assert nodes[4]["widgets_values"] == [1, "fixed", 20, 7.0, "euler", "normal", 0.6]  # not ours


def test_a_list_of_clusters_is_not_fetched_by_the_page_which_would_lose_what_was_chosen(down: Path) -> None:
    CLUSTERS.look()
    kind, options = NODES["LunaDTClusterSampler"].INPUT_TYPES()["required"]["cluster"]
    assert kind == "COMBO"
    assert options["options"] == ["1: Luna", "2: Snorri", "3: unnamed"]
    assert "remote" not in options
    assert NODES["LunaDTClusterSampler"].VALIDATE_INPUTS(cluster="99: Gone (3)") is True
    with pytest.raises(ERRORS.UnknownCluster, match=r"'99: Gone \(3\)' is there no more, choose another"):
        run("LunaDTClusterSampler", cluster="99: Gone (3)")


def test_what_a_query_has_chosen_is_left_out_of_its_own_hits(down: Path) -> None:
    chosen = run("LunaDTImageLoader", query="cat", index=1)
    asked = {"reference_image": chosen["image"], "top_k": 5, "min_similarity": 0.1}
    assert chosen["image_id"] in run("LunaDTSimilarSearch", **asked)["image_ids"]
    assert (
        chosen["image_id"]
        not in run("LunaDTSimilarSearch", **asked, reference_image_id=chosen["image_id"])["image_ids"]
    )
    assert run("LunaDTCaptionFetcher", image_id=chosen["image_id"])["combined"]


def test_the_reference_is_handed_on_by_its_id_too(down: Path, drawn: Drawn) -> None:
    asked = {"min_similarity": 1.0, "top_k": 3, "when_empty": "reference"}
    kept = run("LunaDTSimilarSearch", reference_image_id=31, **asked)
    assert (kept["count"], kept["image_ids"], kept["prompts"]) == (0, [31], [drawn.drawings[30].scene.caption])
    np.testing.assert_array_equal(kept["images"][0], run("LunaDTImageLoader", image_id=31)["image"])
    with pytest.raises(ERRORS.NotFound, match="lower min_similarity"):
        run("LunaDTSimilarSearch", search_mode="semantic", text_query="a cat", **asked)  # a text is no picture


def test_a_search_by_id_shows_its_reference(down: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    sheets: Any = pack_module("luna_dt.sheet")
    shown: list[Any] = []
    monkeypatch.setattr(sheets, "contact_sheet", lambda query, *_: shown.append(query))
    asked = {"reference_image_id": 31, "min_similarity": 0.1}
    run("LunaDTSimilarSearch", **asked)
    with Image.open(drawn.drawings[30].path) as picture:
        assert shown[0].tobytes() == picture.convert("RGB").tobytes()
    moved = drawn.drawings[30].path.with_suffix(".away")
    drawn.drawings[30].path.rename(moved)
    try:
        assert run("LunaDTSimilarSearch", **asked)["count"]
    finally:
        moved.rename(drawn.drawings[30].path)
    assert shown[1] is None
