"""The pickers at the nodes' inputs and clusters in the gallery's tab, in ComfyUI's real page.

Needs what test_page.py needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt.settings_file import write
from tests.browser import CHROMIUM, draw_clusters, serious
from tests.comfy import IS_THERE, ComfyUI, until
from tools.make_workflows import saved

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(not IS_THERE, reason="COMFYUI_PATH and COMFYUI_PYTHON are not set"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]
CLUSTERS = "cluster => app.graph.nodes.map(node => node.widgets?.find(each => each.name === 'cluster')?.value)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clusters, and no layer; its home is the one that the settings say."""
    drawn = draw_clusters(tmp_path_factory.mktemp("pickers"))
    write(drawn / "home", {"dt": str(drawn / "pictures")})
    return drawn


@pytest.fixture(scope="module")
def comfyui(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    base = tmp_path_factory.mktemp("base")
    running = ComfyUI(base, {"LUNA_DT_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"})
    yield running
    running.close()


@pytest.fixture
def labels(comfyui: ComfyUI) -> dict[str, str]:
    """The labels of a node's list, by the clusters' names."""

    def options() -> list[str]:
        told = requests.get(f"{comfyui.url}/object_info/LunaDTClusterSampler", timeout=60).json()
        found: list[str] = told["LunaDTClusterSampler"]["input"]["required"]["cluster"][1]["options"]
        return found

    until(lambda: len(options()) == 3)  # it is looked up in the background
    return {label.partition(": ")[2]: label for label in options()}


def open_saved(page: Any, cluster: str) -> None:
    """Opens a workflow of a Cluster Sampler and a Likeness Gate."""
    sampled = {"cluster": cluster, "sample_count": 2, "min_quality": 0, "sort_by": "quality", "seed": 7}
    workflow: dict[str, Any] = {
        "sampler": ("LunaDTClusterSampler", sampled),
        "gate": ("LunaDTLikenessGate", {"images": ("sampler", 0), "threshold": -1.0}),
        "shown": ("PreviewImage", {"images": ("gate", 0)}),
        "text": ("PreviewAny", {"source": ("sampler", 3)}),
    }
    page.evaluate("app.graph.clear()")
    page.evaluate("workflow => app.loadGraphData(workflow)", saved(workflow))
    page.wait_for_function("app.graph.nodes.length === 4")


def skip_without_widgets(page: Any, request: pytest.FixtureRequest) -> None:
    version = str(page.evaluate("window.__COMFYUI_FRONTEND_VERSION__"))
    if "vue" in request.node.name and version.startswith("1.27."):
        pytest.skip("this front end's Vue nodes show no widgets like ours")


def test_a_cluster_is_chosen_at_a_nodes_input(
    page: Any, comfyui: ComfyUI, labels: dict[str, str], request: pytest.FixtureRequest
) -> None:
    skip_without_widgets(page, request)
    open_saved(page, "77: Gone (3)")
    buttons = page.get_by_role("button", name="cluster …")
    expect(buttons).to_have_count(2)
    shown = page.locator("img[title^='cluster: ']:visible")
    expect(shown).to_have_count(0)  # what is gone is not shown, and not asked for
    dialog = page.locator("dialog[open]")
    for place, name in enumerate(("Snorri", "Luna")):
        buttons.nth(place).click()
        expect(dialog.get_by_role("option")).to_have_count(3)
        assert serious(page, "dialog[open]") == []
        dialog.get_by_label("Name of a cluster").fill(name)
        dialog.get_by_role("option").dblclick()
        expect(dialog).to_have_count(0)
        page.wait_for_function(
            "name => app.graph.nodes.some(node => node.widgets?.some(each => each.value === name))", arg=labels[name]
        )
    expect(shown).to_have_count(2)
    chosen = {labels["Snorri"], labels["Luna"]}
    again = page.evaluate("app.graph.serialize()")
    kept = [value for node in again["nodes"] for value in node.get("widgets_values") or [] if value in chosen]
    assert sorted(kept) == sorted(chosen)
    (sampler,) = (node for node in again["nodes"] if node["type"] == "LunaDTClusterSampler")
    assert sampler["widgets_values"][1:] == [2, 0, "quality", 7]
    # and without this page it runs the same
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    chosen_there = {node["class_type"]: node["inputs"].get("cluster") for node in prompt.values()}
    only = {key: node for key, node in prompt.items() if node["class_type"] in ("LunaDTClusterSampler", "PreviewAny")}
    assert chosen_there["LunaDTClusterSampler"] in chosen
    assert comfyui.run(json.loads(json.dumps(only)))
    page.get_by_role("button", name="cluster …").last.click()
    none = dialog.get_by_role("button", name="none", exact=True)
    if not none.count():  # the other node's
        dialog.get_by_role("button", name="Close", exact=True).click()
        page.get_by_role("button", name="cluster …").first.click()
    none.click()
    expect(dialog).to_have_count(0)
    expect(shown).to_have_count(1)


def test_clusters_are_looked_at_in_the_tab_and_become_nodes(page: Any, labels: dict[str, str]) -> None:
    page.evaluate("app.graph.clear()")
    page.get_by_role("button", name="Luna DT: your pictures").click()
    panel = page.locator(".luna-panel")
    panel.get_by_role("button", name="Clusters", exact=True).click()
    expect(panel.get_by_role("option")).to_have_count(3)
    assert serious(page, ".luna-panel") == []
    panel.get_by_label("Name of a cluster").fill("snorri")
    panel.get_by_role("option").click(button="right")
    page.get_by_role("menuitem", name="Cluster Sampler").click()
    page.wait_for_function("app.graph.nodes.length === 1")
    assert page.evaluate(CLUSTERS) == [labels["Snorri"]]
    panel.get_by_label("Name of a cluster").fill("luna")
    panel.get_by_role("option").click()
    panel.locator(".luna-selection").get_by_role("button", name="into Luna DT Cluster Sampler").click()
    assert page.evaluate(CLUSTERS) == [labels["Luna"]]
    panel.get_by_role("option").dblclick()
    expect(panel.locator(".luna-count")).to_have_text("6 pictures")


def test_without_a_layer_the_tab_names_the_steps_that_exist_here(page: Any, comfyui: ComfyUI) -> None:
    page.evaluate("app.graph.clear()")
    page.get_by_role("button", name="Luna DT: your pictures").click()
    panel = page.locator(".luna-panel")
    panel.locator(".luna-tile img[src]").nth(3).wait_for()
    panel.locator(".luna-tile").nth(1).click(button="right")
    page.get_by_role("menuitem", name="similar: no layer yet …").click()
    told = panel.locator(".luna-notice:visible")
    expect(told).to_contain_text("embed --layer visual makes one here")
    expect(told).to_contain_text("python")  # ComfyUI's own, since there is no such command
    assert "luna-dt" not in told.inner_text()
    assert serious(page, ".luna-panel") == []
