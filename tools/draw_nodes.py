"""Draws docs/nodes/*.webp: every node in ComfyUI's page after a run, over a drawn library.

    COMFYUI_PATH=… COMFYUI_PYTHON=… python -m tools.draw_nodes

Needs what tests/comfyui/test_page.py needs: a ComfyUI, Chromium, Playwright and a PostgreSQL.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from luna_dt.demo import database
from tests.browser import chromium
from tests.comfy import ROOT, ComfyUI, mirrored
from tools.make_workflows import saved

FOLDER = ROOT / "docs" / "nodes"
WIDTH = 400  # of a node, in pixels
#: All nodes in one workflow.
WORKFLOW: dict[str, Any] = {
    "connection_status": ("LunaDTConnectionStatus", {}),
    "sync": ("LunaDTSync", {}),
    "image_loader": ("LunaDTImageLoader", {"image_id": 7}),
    "prompt_injector": ("LunaDTPromptInjector", {"image_id": 7}),
    "caption_fetcher": ("LunaDTCaptionFetcher", {"image_id": 7, "prepend_trigger": "my_style"}),
    "similar_search": ("LunaDTSimilarSearch", {"reference_image": ("image_loader", 0), "reference_image_id": ("image_loader", 7), "top_k": 6, "min_similarity": 0.3}),
    "cluster_sampler": (
        "LunaDTClusterSampler",
        {"cluster": "1: Luna", "sample_count": 4, "min_quality": 0, "sort_by": "diverse"},
    ),
    "controlnet_cache": ("LunaDTControlNetCache", {"image_id": 7, "controlnet_type": "canny"}),
    "likeness_gate": ("LunaDTLikenessGate", {"images": ("similar_search", 0), "reference_ids": "7", "threshold": 0.7}),
    "metadata_writer": (
        "LunaDTMetadataWriter",
        {
            "image": ("image_loader", 0), "source_image_id": 7, "operation": "variation", "seed": 4711,
            "prompt": ("prompt_injector", 0), "filename_prefix": "made/%date:yyyy-MM-dd%/picture",
        },
    ),
}  # fmt: skip
#: By itself, since what it queues shows its results in the nodes, too.
BATCH: dict[str, Any] = {
    "image_loader": ("LunaDTImageLoader", {"image_id": 7}),
    "picture": ("PreviewImage", {"images": ("image_loader", 0)}),
    "batch_queue": ("LunaDTBatchQueue", {"image_ids": "1-12", "operation": "variation"}),
}  # fmt: skip
#: What has an output shown: a node runs only where something that is shown hangs on it.
SHOWN: dict[str, Any] = {
    f"show {name}": (kind, {"source" if kind == "PreviewAny" else "images": (name, output)})
    for name, kind, output in (
        ("connection_status", "PreviewAny", 1),
        ("prompt_injector", "PreviewAny", 0),
        ("caption_fetcher", "PreviewAny", 3),
        ("cluster_sampler", "PreviewImage", 0),
        ("controlnet_cache", "PreviewImage", 0),
    )
}


#: Where a node lies in the page: its corner at a fixed place, in its own size.
PLACE = """number => {
    const node = app.graph.getNodeById(number), [x, y] = [500, 120];
    app.canvas.deselectAll?.();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [x - node.pos[0], y - node.pos[1]];
    app.canvas.setDirty(true, true);
    app.canvas.draw(true, true);
    const box = app.canvas.canvas.getBoundingClientRect();
    return [box.left + x - 6, box.top + y - 36, node.size[0] + 12, node.size[1] + 44];
}"""
#: All nodes far from each other, each as high as it must be.
SPREAD = """wide => app.graph.nodes.forEach((node, index) => {
    node.pos = [index * 1000, 0];
    node.setSize([wide, 0]);
    const texts = node.comfyClass === "LunaDTConnectionStatus" ? 50 : 0; // which has lines
    node.setSize([wide, node.computeSize()[1] + texts]);
})"""


def draw(running: ComfyUI, page: Any, workflow: dict[str, Any], drawn: list[str]) -> None:
    """Runs a workflow and draws some of its nodes."""
    page.evaluate("workflow => app.loadGraphData(workflow)", saved(workflow))
    page.wait_for_timeout(1000)
    told = running.run_in(page)["status"]
    assert told["status_str"] == "success", told
    page.wait_for_timeout(5000)  # pictures are fetched, a batch runs
    page.evaluate(SPREAD, WIDTH)
    for number, name in enumerate(workflow, 1):
        if name in drawn:
            x, y, width, height = page.evaluate(PLACE, number)
            page.wait_for_timeout(700)
            clip = {"x": x, "y": y, "width": width, "height": height}
            shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
            shot.save(FOLDER / f"{name}.webp", quality=80, method=6)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, chromium() as browser:
        folder = Path(scratch)
        base = folder / "comfyui"
        with database.postgres(folder / "pg") as postgres, mirrored(folder, postgres, "drawn", 256) as url:
            running = ComfyUI(base, {"LUNA_DT_HOME": str(folder / "home"), "DT_API_URL": url, "HF_HUB_OFFLINE": "1"})
            try:
                requests.post(f"{running.url}/settings/Comfy.TutorialCompleted", json=True, timeout=60)
                page = browser.new_page(viewport={"width": 1400, "height": 1000})
                running.open_in(page)
                draw(running, page, WORKFLOW | SHOWN, list(WORKFLOW))
                draw(running, page, BATCH, ["batch_queue"])
            finally:
                running.close()


if __name__ == "__main__":
    main()
