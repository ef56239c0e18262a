"""Interruption: whatever a node does, at most one unit more of it is begun, and no wait goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from tests.pack import Interrupted, Interruption, in_comfyui, load_pack, pack_module
from tests.unit.test_batch import WORKFLOW, Comfy

PACK = load_pack()
SHARED: Any = pack_module("nodes.shared")
NODES: dict[str, Any] = PACK.NODE_CLASS_MAPPINGS
LISTS = ("LunaDTLikenessGate", "LunaDTBatchQueue")  # whose inputs are lists
MANY = torch.rand(40, 32, 48, 3, generator=torch.Generator().manual_seed(5))
SOON = 3.0  # seconds: one, and what a busy machine takes


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Interruption:
    return in_comfyui(monkeypatch, tmp_path)[0]


def run(name: str, **inputs: Any) -> dict[str, Any]:
    """A node's outputs by their names, its required inputs' defaults filled in."""
    node = NODES[name]
    required = node.INPUT_TYPES()["required"]
    filled = {key: spec[1]["default"] for key, spec in required.items() if "default" in spec[1]} | inputs
    made = node().run(**({key: [value] for key, value in filled.items()} if name in LISTS else filled))
    return dict(zip(node.RETURN_NAMES, made["result"], strict=True))


def units(
    monkeypatch: pytest.MonkeyPatch, interruption: Interruption, owner: Any, name: str, last: int = 0
) -> list[int]:
    """Counts the calls of a function; in the ``last`` of them the user interrupts."""
    counted: list[int] = []
    theirs: Callable[..., Any] = getattr(owner, name)

    def counting(*given: Any, **options: Any) -> Any:
        counted.append(len(counted) + 1)
        if len(counted) == last:
            interruption.wanted.set()
        return theirs(*given, **options)

    monkeypatch.setattr(owner, name, counting)
    return counted


# -- loops --------------------------------------------------------------------------------------------


def test_maps_are_left_after_the_one_that_is_made_and_what_was_made_is_kept(
    down: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"controlnet_type": "canny", "resolution": 0, "reference_image": MANY}
    made = units(monkeypatch, interruption, pack_module("luna_dt.preproc.detectors"), "canny", last=3)
    with pytest.raises(Interrupted):
        run("LunaDTControlNetCache", **inputs)
    assert made == [1, 2, 3]
    assert run("LunaDTControlNetCache", **inputs)["controlnet_image"].shape == MANY.shape
    assert len(made) == len(MANY)  # the three were there


def test_a_map_is_left_between_two_parts_of_its_network(
    down: Path, weights: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUNA_DT_MODELS", str(weights))
    parts = units(monkeypatch, interruption, torch.nn.Conv2d, "forward", last=2)
    with pytest.raises(Interrupted):
        run("LunaDTControlNetCache", controlnet_type="softedge", resolution=64, reference_image=MANY)
    assert parts == [1, 2]


def test_writing_is_left_after_the_picture_that_is_written_and_that_is_recorded(
    down: Path, tmp_path: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"image": MANY, "filename_prefix": "made", "operation": "txt2img", "prompt": "a cat", "seed": 4}
    written = units(monkeypatch, interruption, pack_module("nodes.pictures"), "write", last=5)
    with pytest.raises(Interrupted):
        run("LunaDTMetadataWriter", **inputs)
    assert written == [1, 2, 3, 4, 5]
    files = {file.name for file in (tmp_path / "output").iterdir()}
    recorded = [entry.generation for entry in SHARED.library().outbox.entries()]
    assert {Path(made.output).name for made in recorded} == files
    assert len(files) == 5
    run("LunaDTMetadataWriter", **inputs)
    assert len(SHARED.library().outbox.entries()) == len(MANY)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("LunaDTLikenessGate", {"images": MANY, "reference_ids": "1-3"}),
        ("LunaDTLikenessGate", {"images": MANY[:1], "references": MANY}),
        ("LunaDTSimilarSearch", {"search_mode": "visual", "reference_image": MANY}),
    ],
    ids=["gate", "gate's references", "search"],
)
def test_encoding_is_left_with_the_picture_that_is_encoded(
    down: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch, name: str, inputs: dict[str, Any]
) -> None:
    encoded = units(monkeypatch, interruption, pack_module("luna_dt.models").Encoders, "pictures", last=3)
    with pytest.raises(Interrupted):
        run(name, **inputs)
    assert encoded == [1, 2, 3]


def test_a_model_is_left_between_two_of_its_parts(interruption: Interruption) -> None:
    host: Any = pack_module("nodes.host")

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.1)
            return x

    model = torch.nn.Sequential(*(Slow() for _ in range(100)))
    host.resident(model)
    host.resident(model)  # as before each batch
    threading.Timer(0.3, interruption.wanted.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted), torch.inference_mode():
        model(torch.zeros(1))
    assert time.monotonic() - start < 1.3


# -- queueing -----------------------------------------------------------------------------------------


@pytest.fixture
def queued_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    comfy = Comfy()
    monkeypatch.setattr(pack_module("nodes.host"), "own_address", lambda: comfy.url)
    yield comfy
    comfy.server.close()


def test_queueing_is_left_after_the_run_that_is_queued(
    down: Path, queued_at: Comfy, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = pack_module("luna_dt.made.comfyui").ComfyUI
    asked = units(monkeypatch, interruption, theirs, "queue", last=4)
    with pytest.raises(Interrupted):
        run("LunaDTBatchQueue", image_ids="1-100", graph=WORKFLOW)
    assert asked == [1, 2, 3, 4]
    assert len(queued_at.seen) == 4
    (batch,) = SHARED.library().batches.all()
    assert batch.counts == {"queued": 4, "cancelled": 96}


def test_a_wait_for_another_who_queues_is_left(down: Path, queued_at: Comfy, interruption: Interruption) -> None:
    with FileLock(SHARED.library().settings.home / "batch.lock"):
        threading.Timer(0.3, interruption.wanted.set).start()
        start = time.monotonic()
        with pytest.raises(Interrupted):
            run("LunaDTBatchQueue", image_ids="1-100", graph=WORKFLOW)
        assert time.monotonic() - start < SOON
    (batch,) = SHARED.library().batches.all()
    assert batch.counts == {"cancelled": 100}
    assert queued_at.seen == []


# -- sync and indexes ---------------------------------------------------------------------------------


def test_a_sync_is_interrupted_and_goes_on(
    up: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    library: Any = pack_module("luna_dt.library")
    library = library.Library  # the pack's own
    theirs = library.sync

    def slowly(self: Any, progress: Any) -> Any:
        for i in range(600):
            progress("images", i, 600)
            time.sleep(0.05)
        return theirs(self, progress)

    monkeypatch.setattr(library, "sync", slowly)
    threading.Timer(0.3, interruption.wanted.set).start()
    start = time.monotonic()
    with pytest.raises(Interrupted):
        run("LunaDTSync")
    assert time.monotonic() - start < 1.3
    asking = [thread for thread in threading.enumerate() if thread.name == "luna_dt asks DT"]
    for thread in asking:
        thread.join(10)
        assert not thread.is_alive()  # what was left behind has ended, too
    monkeypatch.setattr(library, "sync", theirs)
    assert "images: 100 new" in run("LunaDTSync")["changes"]


@pytest.mark.slow
def test_a_sync_that_waits_for_an_index_is_left_and_a_search_does_not_wait(
    up: Path, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = SHARED.library().settings.home
    with FileLock(home / "index.lock"):  # as while another process makes one, for minutes
        threading.Timer(1.0, interruption.wanted.set).start()
        start = time.monotonic()
        with pytest.raises(Interrupted):
            run("LunaDTSync")
        assert time.monotonic() - start < 1.0 + SOON
        asking = [thread for thread in threading.enumerate() if thread.name == "luna_dt asks DT"]
        for thread in asking:
            thread.join(10)
            assert not thread.is_alive()
        monkeypatch.setenv("DT_API_URL", "http://127.0.0.1:9")
        assert run("LunaDTSimilarSearch", search_mode="visual", reference_image_id=7, min_similarity=0.1)["count"]
