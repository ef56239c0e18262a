"""The pack in a real ComfyUI: every node and every example workflow, with DT up and with DT down.

Needs ``COMFYUI_PATH`` (a checkout) and ``COMFYUI_PYTHON`` (a Python that can import its requirements
and this pack's requirements.txt); skipped without them.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from luna_dt import Library
from luna_dt.provenance.picture import read as read_picture
from tests.comfy import AWAY, IS_THERE, ROOT, ComfyUI, mirrored, until
from tests.unit.test_rest import Stranger

HERE = Path(__file__).parent
EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.skipif(not IS_THERE, reason="COMFYUI_PATH and COMFYUI_PYTHON are not set"),
]


@pytest.fixture(scope="module")
def home(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A library synced from a server that goes on running; its pictures are small, since a CPU draws more of them."""
    folder = tmp_path_factory.mktemp("comfyui")
    with mirrored(folder, postgres, "comfyui", 64) as url:
        yield folder / "home", url


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("base")
    environment = {**os.environ, "PYTHONPATH": os.environ["COMFYUI_PATH"]}
    command = [os.environ["COMFYUI_PYTHON"], str(HERE / "random_models.py"), str(folder / "models")]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    yield folder
    shutil.rmtree(folder / "models")


@pytest.fixture(scope="module")
def stored_maps() -> Iterator[Stranger]:
    """A DT server of another make, which has a ControlNet map and little else."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64), (255, 0, 0)).save(out, "PNG")
    stranger = Stranger()
    stranger.answers["/api/health"] = (200, {"status": "ok"})
    stored = {"image_base64": base64.b64encode(out.getvalue()).decode(), "was_cached": True}
    stranger.answers["/api/images/1/controlnet/openpose"] = (200, stored)
    yield stranger
    stranger.close()


@pytest.fixture(scope="module", params=["DT up", "DT down"])
def comfyui(request: pytest.FixtureRequest, home: tuple[Path, str], base: Path) -> Iterator[ComfyUI]:
    address = home[1] if request.param == "DT up" else AWAY
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": address, "HF_HUB_OFFLINE": "1"})
    yield running
    running.close()


def shown(inputs: dict[str, Any], node: str, output: int, show: str = "PreviewAny") -> dict[str, Any]:
    return {
        "1": {"class_type": node, "inputs": inputs},
        "2": {"class_type": show, "inputs": {"source" if show == "PreviewAny" else "images": ["1", output]}},
    }


SIMILAR = {"search_mode": "visual", "top_k": 4, "min_similarity": 0.1}


def test_the_pack_loads_and_describes_itself_without_waiting(comfyui: ComfyUI) -> None:
    log = comfyui.log.read_text()
    assert "IMPORT FAILED" not in log
    contract = json.loads((ROOT / "tests" / "nodes_contract.json").read_text())
    assert set(contract) < {name for name in comfyui.info if name.startswith("LunaDT")}
    start = time.perf_counter()
    for name in contract:
        assert requests.get(f"{comfyui.url}/object_info/{name}", timeout=5).json()[name]["description"]
    assert time.perf_counter() - start < 5  # far from any network time-out


def test_the_clusters_are_listed_at_once(comfyui: ComfyUI) -> None:
    labels = requests.get(f"{comfyui.url}/luna_dt/clusters", timeout=5).json()
    assert labels == ["1: Luna", "2: Snorri", "3: unnamed"]


@pytest.mark.parametrize(
    ("node", "inputs", "output", "told"),
    [
        ("LunaDTPromptInjector", {"image_id": 1}, 0, "arrow"),
        ("LunaDTCaptionFetcher", {"image_id": 1, "prepend_trigger": "mine"}, 3, "mine, arrow"),
        ("LunaDTImageLoader", {"image_id": 0, "query": "cat size: square", "index": 1}, 1, "cat"),
        ("LunaDTConnectionStatus", {}, 1, "visual: 100 vectors"),
        ("LunaDTSimilarSearch", {**SIMILAR, "reference_image_id": 7}, 1, "car"),
        ("LunaDTSimilarSearch", {**SIMILAR, "search_mode": "semantic", "text_query": "a cat"}, 5, "0."),
        ("LunaDTClusterSampler", {"cluster": "1: Old name (7)", "sample_count": 2, "min_quality": 0, "sort_by": "diverse"}, 1, "cat"),
    ],
)  # fmt: skip
def test_a_node_tells_the_same_with_dt_up_and_down(
    comfyui: ComfyUI, node: str, inputs: dict[str, Any], output: int, told: str
) -> None:
    text = comfyui.run(shown(inputs, node, output))["2"]["text"]
    assert told in str(text)


def test_a_picture_is_searched_by_picture(comfyui: ComfyUI) -> None:
    prompt = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
        "2": {"class_type": "LunaDTSimilarSearch", "inputs": {**SIMILAR, "reference_image": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["2", 4]}},
    }
    outputs = comfyui.run(prompt)
    assert len(outputs["3"]["images"]) == 4
    assert "7" in str(outputs["4"]["text"])
    strip = comfyui.picture(outputs["2"]["images"][0])  # the hits with their scores, on the node itself
    assert strip.width > 4 * 192


@pytest.mark.parametrize(
    ("node", "inputs", "told"),
    [
        ("LunaDTImageLoader", {"image_id": 4711}, "4711"),
        ("LunaDTImageLoader", {"image_id": 1, "api_url": "http://stranger.example"}, "allowed"),
        ("LunaDTSimilarSearch", {**SIMILAR, "search_mode": "visual"}, "text_query"),
        ("LunaDTControlNetCache", {"image_id": 1, "controlnet_type": "depth_zoe"}, "needs ZoeD_M12_N.pt (1443 MB)"),
        ("LunaDTControlNetCache", {"image_id": 0, "controlnet_type": "canny"}, "image_id is 0"),
        ("LunaDTMetadataWriter", {"source_image_id": 1, "operation": "txt2img", "cfg": -1.0}, "cfg must be 0 or more"),
        ("LunaDTBatchQueue", {"image_ids": "a dragon", "operation": "img2img"}, "no image fits"),
        ("LunaDTBatchQueue", {"image_ids": "1", "operation": "img2img"}, "no Luna node of this workflow"),
        (
            "LunaDTBatchQueue",
            {"image_ids": "1", "operation": "img2img", "workflow": "../../x.json"},
            "no workflow's name",
        ),
    ],
)
def test_what_cannot_be_done_is_told_on_the_node(
    comfyui: ComfyUI, node: str, inputs: dict[str, Any], told: str
) -> None:
    prompt = shown(inputs, node, 0)
    if node == "LunaDTMetadataWriter":
        prompt["3"] = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
        prompt["1"]["inputs"]["image"] = ["3", 0]
    with pytest.raises(AssertionError, match=node) as failed:
        comfyui.run(prompt)
    assert told in str(failed.value)


def test_an_error_is_shown_by_a_name_in_words(comfyui: ComfyUI) -> None:
    answer = requests.post(
        f"{comfyui.url}/prompt", json={"prompt": shown({"image_id": 0}, "LunaDTPromptInjector", 0)}, timeout=60
    ).json()
    until(lambda: requests.get(f"{comfyui.url}/history/{answer['prompt_id']}", timeout=60).json())
    history = requests.get(f"{comfyui.url}/history/{answer['prompt_id']}", timeout=60).json()[answer["prompt_id"]]
    told = dict(history["status"]["messages"])["execution_error"]
    assert told["exception_type"] == "Luna DT: bad input"


def test_a_cluster_that_is_gone_stays_in_its_workflow_and_is_refused_by_its_name(comfyui: ComfyUI) -> None:
    kind, options = comfyui.info["LunaDTClusterSampler"]["input"]["required"]["cluster"]
    assert (kind, "remote" in options) == ("COMBO", False)
    inputs = {"cluster": "77: Gone (3)", "sample_count": 1, "min_quality": 0, "sort_by": "quality"}
    with pytest.raises(AssertionError, match=r"'77: Gone \(3\)' is there no more"):
        comfyui.run(shown(inputs, "LunaDTClusterSampler", 1))


@pytest.mark.parametrize(("threshold", "cluster", "passing"), [(-1.0, "1: Luna", 2), (1.0, "none", 0)])
def test_the_gate_lets_pass_and_blocks_as_comfyui_means_it(
    comfyui: ComfyUI, threshold: float, cluster: str, passing: int
) -> None:
    prompt = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
        "2": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 8}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {
            "class_type": "LunaDTLikenessGate",
            "inputs": {
                "images": ["3", 0], "layer": "visual", "threshold": threshold, "best": 0, "cluster": cluster,
                "reference_ids": "9",
            },
        },
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["4", 0]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["4", 1]}},
        "7": {"class_type": "PreviewAny", "inputs": {"source": ["4", 4]}},
    }  # fmt: skip
    outputs = comfyui.run(prompt)
    assert outputs["4"]["text"][0].startswith(f"{passing} of 2 are like enough")
    assert outputs["4"]["images"]
    assert [len(outputs.get(node, {}).get("images", ())) for node in ("5", "6")] == [passing, 2 - passing]
    assert outputs["7"]["text"] == [str(passing)]


def test_a_sync_in_comfyui_tells_what_has_changed(home: tuple[Path, str], base: Path, tmp_path: Path) -> None:
    running = ComfyUI(base, {"LUNA_DT_HOME": str(tmp_path / "home"), "DT_API_URL": home[1]})
    try:
        prompt = {"1": {"class_type": "LunaDTSync", "inputs": {}}}
        assert "images: 100 new; 100 in all" in running.run(prompt)["1"]["text"][0]
        assert running.run(prompt)["1"]["text"] == ["nothing has changed"]
        info = requests.get(f"{running.url}/object_info/LunaDTClusterSampler", timeout=60).json()
        options = info["LunaDTClusterSampler"]["input"]["required"]["cluster"][1]["options"]
        assert options == ["1: Luna", "2: Snorri", "3: unnamed"]
    finally:
        running.close()


def test_a_dt_that_hangs_is_left_after_five_seconds_or_at_once_where_the_user_interrupts(
    base: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # the system accepts, nobody answers
        address = f"http://127.0.0.1:{hung.getsockname()[1]}"
        running = ComfyUI(base, {"LUNA_DT_HOME": str(tmp_path / "home"), "DT_API_URL": address})
        try:
            start = time.monotonic()
            told = running.run(
                {"1": {"class_type": "LunaDTConnectionStatus", "inputs": {}}, **shown({}, "LunaDTConnectionStatus", 1)}
            )
            assert "does not answer" in str(told)
            assert time.monotonic() - start < 9
            requests.post(f"{running.url}/prompt", json={"prompt": shown({}, "LunaDTConnectionStatus", 1)}, timeout=60)
            time.sleep(1)
            start = time.monotonic()
            requests.post(f"{running.url}/interrupt", timeout=60)
            until(lambda: not requests.get(f"{running.url}/queue", timeout=60).json()["queue_running"], 5)
            assert time.monotonic() - start < 2
        finally:
            running.close()


def test_a_loading_label_is_refused_before_the_run(comfyui: ComfyUI) -> None:
    inputs = {"cluster": "Loading...", "sample_count": 1, "min_quality": 0, "sort_by": "quality"}
    with pytest.raises(AssertionError, match="choose one"):
        comfyui.run(shown(inputs, "LunaDTClusterSampler", 0, "PreviewImage"))


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "pose" not in e.name], ids=lambda path: path.stem)
def test_an_example_workflow_runs_to_its_end(comfyui: ComfyUI, example: Path) -> None:
    prompt = comfyui.prompt(json.loads(example.read_text()))
    for node in prompt.values():
        if node["class_type"] == "KSampler" and not isinstance(node["inputs"]["steps"], list):
            node["inputs"]["steps"] = 2
    outputs = comfyui.run(prompt)
    pictures = [p for o in outputs.values() for p in o.get("images", []) if p["type"] == "output"]
    assert pictures
    assert comfyui.picture(pictures[0]).size == (64, 64)


def test_the_example_with_a_stored_map_runs_to_its_end(
    home: tuple[Path, str], base: Path, stored_maps: Stranger
) -> None:
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": stored_maps.url})
    try:
        (example,) = (e for e in EXAMPLES if "pose" in e.name)
        prompt = running.prompt(json.loads(example.read_text()))
        for node in prompt.values():
            if node["class_type"] == "KSampler":
                node["inputs"]["steps"] = 2
        outputs = running.run(prompt)
    finally:
        running.close()
    kinds = {p["type"] for o in outputs.values() for p in o.get("images", [])}
    assert kinds == {"output", "temp"}
    assert ("GET", "/api/images/1/controlnet/openpose") in [asked[:2] for asked in stored_maps.asked]


def test_a_map_is_made_and_shown_and_found_again(comfyui: ComfyUI) -> None:
    image_id = 11 if "DT up" in os.environ["PYTEST_CURRENT_TEST"] else 12
    inputs = {"image_id": image_id, "controlnet_type": "canny", "resolution": 0}
    told = []
    for low in (100, 99, 100):  # another parameter between, or ComfyUI would not run the node again
        outputs = comfyui.run(shown({**inputs, "low_threshold": low}, "LunaDTControlNetCache", 1))
        told.append(str(outputs["2"]["text"]))
        assert comfyui.picture(outputs["1"]["images"][0]).size == (64, 64)
    assert ["False" in each for each in told] == [True, True, False]
    prompt = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": image_id}},
        "2": {
            "class_type": "LunaDTControlNetCache",
            "inputs": {"image_id": 0, "controlnet_type": "canny", "reference_image": ["1", 0]},
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    outputs = comfyui.run(prompt)
    on_the_node, given = (comfyui.picture(outputs[node]["images"][0]).convert("RGB").tobytes() for node in ("2", "3"))
    assert on_the_node == given


def test_the_weights_of_the_pack_that_everybody_has_are_used(home: tuple[Path, str], base: Path, weights: Path) -> None:
    theirs = base / "custom_nodes" / "comfyui_controlnet_aux"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    (theirs / "ckpts").symlink_to(weights, target_is_directory=True)
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": AWAY, "HF_HUB_OFFLINE": "1"})
    try:
        (example,) = (e for e in EXAMPLES if "pose" in e.name)
        prompt = running.prompt(json.loads(example.read_text()))
        (pose,) = (number for number, node in prompt.items() if node["class_type"] == "LunaDTControlNetCache")
        prompt[pose]["inputs"]["image_id"] = 5
        for node in prompt.values():
            if node["class_type"] == "KSampler":
                node["inputs"]["steps"] = 2
        prompt["100"] = {"class_type": "PreviewAny", "inputs": {"source": [pose, 2]}}
        outputs = running.run(prompt)
        assert json.loads(outputs["100"]["text"][0])["canvas_width"] == 64
        for kind in ("softedge", "depth_midas", "segmentation"):
            prompt = shown({"image_id": 2, "controlnet_type": kind, "resolution": 64}, "LunaDTControlNetCache", 1)
            assert "False" in str(running.run(prompt)["2"]["text"])
    finally:
        running.close()
        shutil.rmtree(theirs)


def test_the_writer_saves_what_dts_scanner_reads(comfyui: ComfyUI) -> None:
    prompt = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
        "2": {
            "class_type": "LunaDTMetadataWriter",
            "inputs": {
                "image": ["1", 0], "source_image_id": 7, "operation": "upscale", "prompt": "a car, ünï", "seed": 2**63,
                "steps": 28, "cfg": 4.5, "filename_prefix": "luna/made", "metadata": ["1", 5],
            },
        },
    }  # fmt: skip
    outputs = comfyui.run(prompt)["2"]
    assert "stored" in outputs["text"][0] or "sent" in outputs["text"][0]
    picture = comfyui.picture(outputs["images"][0])
    assert picture.size == (64, 64)
    assert picture.text["parameters"] == (  # type: ignore[attr-defined]
        f"a car, ünï\nSteps: 28, CFG scale: 4.5, Seed: {2**63}, Size: 64x64"
    )
    assert json.loads(picture.text["prompt"])["2"]["class_type"] == "LunaDTMetadataWriter"  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "end"), [("png", ".png"), ("webp", ".webp"), ("jpeg", ".jpg")])
def test_the_writer_saves_a_batch_in_each_format_with_captions_beside(
    comfyui: ComfyUI, base: Path, kind: str, end: str
) -> None:
    inputs = {
        "source_image_id": 0,
        "operation": "txt2img",
        "prompt": "ünï",
        "seed": 77,
        "steps": 9,
        "file_format": kind,
    }
    prompt: dict[str, Any] = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
        "2": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 8}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {
            "class_type": "LunaDTMetadataWriter",
            "inputs": {**inputs, "image": ["3", 0], "filename_prefix": f"kinds/{kind}", "caption": "1girl, ünï"},
        },
        "5": {"class_type": "LunaDTMetadataWriter", "inputs": {**inputs, "image": ["3", 0], "operation": "upscale"}},
    }
    outputs = comfyui.run(prompt)
    assert [picture["type"] for picture in outputs["5"]["images"]] == ["temp", "temp"]
    names = [base / "output" / picture["subfolder"] / picture["filename"] for picture in outputs["4"]["images"]]
    assert [name.suffix for name in names] == [end, end]
    for name in names:
        with name.open("rb") as data:
            told = read_picture(data)
        assert (told.made.prompt, told.made.seed, told.made.steps) == ("ünï", 77, 9)
        assert name.with_suffix(".txt").read_text(encoding="utf-8") == "1girl, ünï\n"


def sampling(comfyui: ComfyUI, ids: str, seeds: str) -> dict[str, Any]:
    """Each image's prompt sampled anew, recorded and saved; and the node that queues that for many."""
    model = comfyui.info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0][0]
    sampler = {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "seed": 1}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "2": {"class_type": "LunaDTPromptInjector", "inputs": {"image_id": 1}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0], "clip": ["1", 1]}},
        "4": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {"class_type": "KSampler", "inputs": {**sampler, "model": ["1", 0], "positive": ["3", 0],
                                                   "negative": ["3", 0], "latent_image": ["4", 0]}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "7": {"class_type": "LunaDTMetadataWriter", "inputs": {"image": ["6", 0], "source_image_id": 0,
                                                               "operation": "txt2img", "filename_prefix": "batch"}},
        "8": {"class_type": "LunaDTBatchQueue",
              "inputs": {"image_ids": ids, "operation": "variation", "seeds": seeds}},
    }  # fmt: skip


def batch_of(outputs: dict[str, Any]) -> str:
    return str(outputs["8"]["text"][0]).split()[1].rstrip(":")


def test_a_batch_of_twenty_survives_a_kill_in_the_middle(home: tuple[Path, str], base: Path) -> None:
    environment = {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": home[1]}
    running = ComfyUI(base, environment)
    with Library(home[0], dt=home[1]) as library:
        try:
            batch = batch_of(running.run(sampling(running, "1-20", ", ".join(map(str, range(100, 120))))))
            until(lambda: library.batches.follow(batch).counts.get("done", 0) >= 3)
            running.close(kill=True)
            before = library.batches.get(batch).counts
            assert before["done"] < 20, "it was over too soon to mean anything"
            running = ComfyUI(base, environment, running.port)
            resumed = library.batches.resume(batch)
            assert sum(resumed.counts.values()) == 20
            assert "lost" not in resumed.counts
            until(lambda: not library.batches.follow(batch).is_open)
            assert library.batches.get(batch).counts == {"done": 20}
            until(lambda: library.outbox.counts()["waiting"] == 0)
            made = library.generations(batch_id=batch)  # as DT has them
            assert sorted(m.extra_metadata["batch_item"] for m in made) == list(range(20))
            assert [(m.source_image_id, m.seed) for m in sorted(made, key=lambda m: m.seed or 0)] == [
                (i + 1, 100 + i) for i in range(20)
            ]
            assert all(m.operation == "variation" and Path(m.output).is_file() for m in made)
            assert len({m.output for m in made}) == 20
        finally:
            running.close()


def test_many_are_queued_while_comfyui_answers_and_can_be_cancelled(home: tuple[Path, str], base: Path) -> None:
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": AWAY})
    try:
        prompt = sampling(running, "1-100", "random")
        start = time.perf_counter()
        with Library(home[0], dt=AWAY) as library:
            batch = library.batches.create([1 + i % 100 for i in range(500)], "img2img", prompt, running.url)
            library.batches.queue(batch.id)
            print(f"500 items queued in {time.perf_counter() - start:.2f} s")
            pending = requests.get(f"{running.url}/queue", timeout=30).json()
            assert len(pending["queue_pending"]) + len(pending["queue_running"]) > 400
            assert library.batches.cancel(batch.id).counts["cancelled"] > 400
            left = requests.get(f"{running.url}/queue", timeout=30).json()
            assert left["queue_pending"] == []
    finally:
        running.close()


def test_what_is_cleared_from_the_queue_is_cancelled_and_leaves_no_watcher(home: tuple[Path, str], base: Path) -> None:
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home[0]), "DT_API_URL": AWAY})
    try:
        batch = batch_of(running.run(sampling(running, "1-60", "random")))
        requests.post(f"{running.url}/queue", json={"clear": True}, timeout=60)
        with Library(home[0], dt=AWAY) as library:
            until(lambda: not library.batches.get(batch).is_open, 60)  # as ComfyUI's own watcher has noted it
            counts = library.batches.get(batch).counts
            assert "lost" not in counts
            assert counts["cancelled"] > 40
            assert library.batches.resume(batch).counts == counts
    finally:
        running.close()


def interrupted(running: ComfyUI, prompt: dict[str, Any], begun: Callable[[], object], done: Callable[[], int]) -> int:
    """Has a run interrupted when it has begun; how many units more were done when it had ended."""
    run = requests.post(f"{running.url}/prompt", json={"prompt": prompt}, timeout=60).json()["prompt_id"]
    begun()
    requests.post(f"{running.url}/interrupt", timeout=60)
    before, start = done(), time.monotonic()
    until(lambda: requests.get(f"{running.url}/history/{run}", timeout=60).json())
    ended = requests.get(f"{running.url}/history/{run}", timeout=60).json()[run]
    print(f"the run ended {time.monotonic() - start:.2f} s after the interruption")
    assert "execution_interrupted" in dict(ended["status"]["messages"])
    return done() - before


@pytest.fixture(scope="module")
def alone(
    home: tuple[Path, str], base: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyUI]:
    """A ComfyUI with weights of maps and a copy of the library, in which no map is kept."""
    copy = shutil.copytree(home[0], tmp_path_factory.mktemp("alone") / "home", ignore=shutil.ignore_patterns("maps"))
    running = ComfyUI(base, {"LUNA_DT_HOME": str(copy), "DT_API_URL": AWAY, "LUNA_DT_MODELS": str(weights)})
    yield running
    running.close()


def test_writing_is_interrupted_after_the_picture_that_is_written(alone: ComfyUI, base: Path) -> None:
    large = {"upscale_method": "nearest-exact", "width": 1024, "height": 1024, "crop": "disabled"}
    prompt = {
        "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
        "2": {"class_type": "ImageScale", "inputs": {"image": ["1", 0], **large}},
        "3": {"class_type": "RepeatImageBatch", "inputs": {"image": ["2", 0], "amount": 100}},
        "4": {
            "class_type": "LunaDTMetadataWriter",
            "inputs": {"image": ["3", 0], "source_image_id": 0, "operation": "txt2img", "filename_prefix": "left/made"},
        },
    }

    def written() -> int:
        return len(list((base / "output" / "left").glob("*.png")))

    assert interrupted(alone, prompt, lambda: until(written), written) <= 1
    with Library(alone.home, dt=AWAY) as library:
        outputs = {entry.generation.output for entry in library.outbox.entries()}
    assert {Path(output).parent.name for output in outputs} == {"left"}


def test_making_maps_is_interrupted_within_the_map_that_is_made(alone: ComfyUI) -> None:
    numbers = range(20, 32)
    prompt = {f"{i}": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": i}} for i in numbers}
    batch = [f"{numbers[0]}", 0]
    for i in numbers[1:]:  # other pictures, or there would be nothing to make
        prompt[f"5{i}"] = {"class_type": "ImageBatch", "inputs": {"image1": batch, "image2": [f"{i}", 0]}}
        batch = [f"5{i}", 0]
    making = {"image_id": 0, "controlnet_type": "depth_midas", "resolution": 512, "reference_image": batch}
    prompt["8"] = {"class_type": "LunaDTControlNetCache", "inputs": making}
    prompt["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["8", 0]}}

    def kept() -> int:
        return len(list((alone.home / "maps").glob("*/*.png")))

    # the one that is made, and one that is on its way to the disk
    assert interrupted(alone, prompt, lambda: until(kept), kept) <= 2


def test_encoding_is_interrupted_within_the_picture_that_is_encoded(alone: ComfyUI) -> None:
    def prompt(count: int) -> dict[str, Any]:
        return {
            "1": {"class_type": "LunaDTImageLoader", "inputs": {"image_id": 7}},
            "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": count}},
            "3": {"class_type": "LunaDTSimilarSearch", "inputs": {**SIMILAR, "reference_image": ["2", 0]}},
            "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        }

    times = []
    for count in (2, 100, 200):  # the first loads the model
        start = time.monotonic()
        alone.run(prompt(count))
        times.append(time.monotonic() - start)
    unit = max(0.001, (times[2] - times[1]) / 100)
    start = time.monotonic()
    interrupted(alone, prompt(2000), lambda: time.sleep(times[2] + 100 * unit), lambda: 0)
    assert time.monotonic() - start < times[2] + 1000 * unit  # of 2000


def test_nothing_runs_again_that_has_not_changed(comfyui: ComfyUI) -> None:
    prompt = shown({**SIMILAR, "reference_image_id": 8}, "LunaDTSimilarSearch", 2)
    comfyui.run(prompt)
    answer = requests.post(f"{comfyui.url}/prompt", json={"prompt": prompt}, timeout=60).json()
    deadline = time.monotonic() + 60
    while not (history := requests.get(f"{comfyui.url}/history/{answer['prompt_id']}", timeout=60).json()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    messages = dict(history[answer["prompt_id"]]["status"]["messages"])
    assert set(messages["execution_cached"]["nodes"]) == {"1", "2"}


def test_models_are_comfyuis_to_unload_and_clip_vision_agrees(weights: Path) -> None:
    inside = [str(HERE / "inside.py"), os.environ["COMFYUI_PATH"], str(ROOT), str(weights)]
    command = [os.environ["COMFYUI_PYTHON"], *inside]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[-5:-1] == [
        "unloaded and back", "a detector too", "CLIP_VISION agrees", "another model is refused",
    ]  # fmt: skip
