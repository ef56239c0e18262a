"""The pack in ComfyUI's real page: saved workflows opened, queued, cleared and left unharmed, by Chromium.

Needs what test_comfyui.py needs, Chromium and Playwright.  ``COMFYUI_FRONT_END`` may name another front end's folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests

pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt import Library
from tests.browser import CHROMIUM
from tests.comfy import AWAY, IS_THERE, ROOT, ComfyUI, mirrored, until
from tools.make_workflows import saved

EXAMPLES = sorted((ROOT / "example_workflows").glob("*.json"))
OLD = ROOT / "tests" / "formats" / "workflow_of_0_1_begun.json"
#: Of which each does something to the graph; what undoes is heard by the page before anything in it.
KEYS = ("Delete", "Backspace", "Control+a", "Control+m", "Control+b", "r", "w", ".", "Control+Enter")
VALUES = "app.graph.serialize().nodes.map(node => node.widgets_values)"
#: The first Vue nodes keep only the one, later front ends warn of it.
CHOSEN = """window.__COMFYUI_FRONTEND_VERSION__.startsWith("1.27.")
    ? Object.keys(app.canvas.selected_nodes) : [...app.canvas.selectedItems].map(item => item.id)"""
NSFW = 9  # the picture that is
WRITER = {"source_image_id": 7, "operation": "img2img"}

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(not IS_THERE, reason="COMFYUI_PATH and COMFYUI_PYTHON are not set"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def home(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirrored library whose DT is away by now; one picture is NSFW."""
    folder = tmp_path_factory.mktemp("page")
    with mirrored(folder, postgres, "page", 64) as url:
        with psycopg.connect(postgres) as connection:
            connection.execute("UPDATE page.image SET nsfw = true WHERE id = %s", [NSFW])
        with Library(folder / "home", dt=url) as library:
            library.sync()
            assert [record.id for record in library.images("nsfw:")] == [NSFW]
        return folder / "home"


@pytest.fixture(scope="module")
def comfyui(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    base = tmp_path_factory.mktemp("base")
    running = ComfyUI(base, {"LUNA_DT_HOME": str(home), "DT_API_URL": AWAY, "HF_HUB_OFFLINE": "1"})
    yield running
    running.close()


def open_saved(page: Any, workflow: dict[str, Any], folder: Path) -> None:
    """Opens a workflow's file, as by the menu."""
    page.evaluate("app.graph.clear()")
    file = folder / "saved.json"
    file.write_text(json.dumps(workflow))
    page.locator("#comfy-file-input").set_input_files(file)
    page.wait_for_function(f"app.graph.nodes.length === {len(workflow['nodes'])}")
    page.wait_for_timeout(300)  # what widgets do by themselves when they are there


def prompt(page: Any) -> dict[str, Any]:
    output: dict[str, Any] = page.evaluate("async () => (await app.graphToPrompt()).output")
    return output


def messages(ended: dict[str, Any]) -> dict[str, Any]:
    return dict(ended["status"]["messages"])


def sampled(cluster: str) -> dict[str, Any]:
    values = {"cluster": cluster, "sample_count": 2, "min_quality": 0, "sort_by": "random", "seed": 77}
    return saved(
        {
            "sampler": ("LunaDTClusterSampler", values),
            "pictures": ("PreviewImage", {"images": ("sampler", 0)}),
            "text": ("PreviewAny", {"source": ("sampler", 3)}),
        }
    )


@pytest.mark.parametrize("label", ["2: Snorri", "2: Snorri (7)", "77: Gone (3)"])
def test_a_saved_cluster_is_kept(page: Any, comfyui: ComfyUI, tmp_path: Path, label: str) -> None:
    open_saved(page, sampled(label), tmp_path)
    assert prompt(page)["1"]["inputs"]["cluster"] == label
    page.evaluate("app.refreshComboInNodes()")
    page.wait_for_timeout(500)
    assert prompt(page)["1"]["inputs"]["cluster"] == label
    again = page.evaluate("app.graph.serialize()")
    comfyui.open_in(page)
    open_saved(page, again, tmp_path)
    assert prompt(page)["1"]["inputs"]["cluster"] == label
    if "Gone" in label:
        told = messages(comfyui.run_in(page))["execution_error"]["exception_message"]
        assert f"'{label}' is there no more" in told
        return
    first, second = comfyui.run_in(page), comfyui.run_in(page)
    assert "1" in messages(second)["execution_cached"]["nodes"]  # sampled once
    assert first["outputs"]["3"] == second["outputs"]["3"]
    with Library(comfyui.home, dt=AWAY) as library:
        members = {member.image.id for member in library.cluster_images(2, 50)}
    assert set(map(int, first["outputs"]["3"]["text"])) <= members


@pytest.mark.parametrize("seed", [4711, 0])
def test_a_workflow_run_twice_is_one_record_with_its_seed(
    page: Any, comfyui: ComfyUI, tmp_path: Path, request: pytest.FixtureRequest, seed: int
) -> None:
    name = request.node.name
    values = {"image": ("picture", 0), **WRITER, "prompt": name, "seed": seed, "filename_prefix": "twice/%date:yyyy%"}
    open_saved(
        page,
        saved({"picture": ("LunaDTImageLoader", {"image_id": 7}), "writer": ("LunaDTMetadataWriter", values)}),
        tmp_path,
    )
    before = page.evaluate(VALUES)
    page.evaluate(
        "{ window.heard = []; app.api.addEventListener('progress_text', told => heard.push(told.detail.text)); }"
    )
    comfyui.run_in(page)
    page.wait_for_function("heard.some(text => text.startsWith('record stored'))")
    assert prompt(page)["2"]["inputs"]["seed"] == seed
    comfyui.run_in(page)
    assert page.evaluate(VALUES) == before  # what the nodes show is not saved
    with Library(comfyui.home, dt=AWAY) as library:
        (record,) = (entry.generation for entry in library.outbox.entries() if entry.generation.prompt == name)
    assert record.seed == (seed or None)  # 0 is what nobody set: unknown
    assert record.source_image_id == 7
    assert Path(record.output).name.startswith(time.strftime("%Y_"))


def test_values_that_an_earlier_version_saved_are_kept(page: Any, tmp_path: Path) -> None:
    nodes = [node for node in json.loads(OLD.read_text())["nodes"] if node["type"] != "KSampler"]
    bare = saved({str(node["id"]): (node["type"], {}) for node in nodes if node["type"] != "LunaDTMetadataWriter"})
    open_saved(page, {**bare, "nodes": [{**bare["nodes"][0], **node} for node in nodes]}, tmp_path)
    told = {node["id"]: node for node in page.evaluate("app.graph.serialize()")["nodes"]}
    for sampler in (told[1], told[2]):
        assert sampler["widgets_values"] == ["1: Luna (4)", 2, 0, "quality", 7]
    assert told[3]["widgets_values"][:11] == [
        5, "img2img", "a cat", "", "dreams", 9, 30, 4.5, 0.6, "made/%date:yyyy-MM-dd%", "",
    ]  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_a_saved_workflow_is_unharmed(page: Any, comfyui: ComfyUI, tmp_path: Path, example: Path) -> None:
    workflow = json.loads(example.read_text())
    open_saved(page, workflow, tmp_path)
    told = {key: node["inputs"] for key, node in prompt(page).items() if node["class_type"].startswith("LunaDT")}
    saved_inputs = {key: node["inputs"] for key, node in comfyui.prompt(workflow).items()}
    assert told == {key: saved_inputs[key] for key in told}
    again = page.evaluate("app.graph.serialize()")
    for before, after in zip(workflow["nodes"], sorted(again["nodes"], key=lambda node: node["id"]), strict=True):
        assert (after["type"], after.get("widgets_values", [])) == (before["type"], before["widgets_values"])
    # but for the number of an input at its node: in the page each widget is one
    ends = ([(number, *rest[:3], rest[4]) for number, *rest in each["links"]] for each in (workflow, again))
    assert sorted(next(ends)) == sorted(next(ends))


def test_the_gallery_keeps_its_keys_and_gives_its_pictures(page: Any, comfyui: ComfyUI, tmp_path: Path) -> None:
    open_saved(page, sampled("2: Snorri"), tmp_path)
    page.evaluate("app.canvas.selectNode(app.graph.getNodeById(1))")
    before = prompt(page)
    runs = len(requests.get(f"{comfyui.url}/history", timeout=60).json())
    page.get_by_role("button", name="Luna DT: your pictures").click()
    page.locator(".luna-tile img[src]").nth(5).wait_for()
    page.locator(".luna-tile").nth(2).click()
    chosen = page.evaluate(CHOSEN)
    for key in KEYS:
        page.keyboard.press(key)
    assert prompt(page) == before
    assert page.evaluate(CHOSEN) == chosen
    assert page.evaluate("app.graph.nodes.map(node => node.mode)") == [0, 0, 0]
    assert len(requests.get(f"{comfyui.url}/history", timeout=60).json()) == runs
    page.keyboard.press("Escape")  # the picture that Enter showed
    page.locator(".luna-tile").nth(2).dblclick()
    page.wait_for_function("app.graph.nodes.length === 4")
    made = next(node for node in prompt(page).values() if node["class_type"] == "LunaDTImageLoader")
    assert made["inputs"]["image_id"] > 0
    page.keyboard.press("Control+z")
    page.wait_for_function("app.graph.nodes.length === 3")
    assert prompt(page) == before
    page.get_by_role("button", name="Luna DT: your pictures").click()
    expect(page.locator(".luna-gallery")).not_to_be_visible()


def skip_without_widgets(page: Any, request: pytest.FixtureRequest) -> None:
    version = str(page.evaluate("window.__COMFYUI_FRONTEND_VERSION__"))
    if "vue" in request.node.name and version.startswith("1.27."):
        pytest.skip("this front end's Vue nodes show no widgets like ours")


def test_a_picture_is_chosen_at_a_nodes_input(page: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    skip_without_widgets(page, request)
    workflow: dict[str, Any] = {
        "dt": ("LunaDTPromptInjector", {"image_id": 0}),
        "text": ("PreviewAny", {"source": ("dt", 0)}),
    }
    open_saved(page, saved(workflow), tmp_path)
    page.evaluate("addEventListener('keydown', () => { window.reached = true; })")
    page.get_by_role("button", name="choose …").click()
    dialog = page.locator("dialog[open]")
    dialog.locator(".luna-tile img[src]").nth(3).wait_for()
    page.keyboard.press("Delete")
    assert not page.evaluate("window.reached")  # what the graph hears
    dialog.locator(".luna-tile img[src]").nth(3).dblclick()
    expect(dialog).to_have_count(0)
    assert prompt(page)["1"]["inputs"]["image_id"] > 0
    assert len(page.evaluate("app.graph.getNodeById(1).serialize().widgets_values")) == 3  # the picker is not saved


def test_a_picker_says_that_its_input_is_linked(page: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    skip_without_widgets(page, request)
    search = {"reference_image": ("picture", 0), "reference_image_id": ("picture", 7)}
    workflow: dict[str, Any] = {
        "picture": ("LunaDTImageLoader", {"image_id": 7}),
        "search": ("LunaDTSimilarSearch", search),
        "found": ("PreviewImage", {"images": ("search", 0)}),
    }
    open_saved(page, saved(workflow), tmp_path)
    linked = page.get_by_role("button", name="reference_image_id is linked")
    expect(linked).to_be_disabled()
    page.evaluate("""() => {
        const node = app.graph.getNodeById(2);
        node.disconnectInput(node.inputs.findIndex(input => input.name === "reference_image_id"));
    }""")
    expect(linked).to_have_count(0)
    expect(page.get_by_role("button", name="choose …").first).to_be_enabled()


def test_the_picture_at_a_node_is_blurred_as_the_gallery_blurs_it(
    page: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    skip_without_widgets(page, request)
    workflow: dict[str, Any] = {}
    for image_id in (7, NSFW):
        workflow |= {
            f"dt {image_id}": ("LunaDTPromptInjector", {"image_id": image_id}),
            f"text {image_id}": ("PreviewAny", {"source": (f"dt {image_id}", 0)}),
        }
    open_saved(page, saved(workflow), tmp_path)
    open_one, nsfw = (page.locator(f"img[title='image_id: {each}']:visible") for each in (7, NSFW))
    expect(open_one).to_have_css("filter", "none")
    expect(nsfw).to_have_css("filter", "blur(6px)")
    page.get_by_role("button", name="Luna DT: your pictures").click()
    page.get_by_label("blur NSFW").uncheck()
    expect(nsfw).to_have_css("filter", "none")
    page.get_by_label("blur NSFW").check()
    expect(nsfw).to_have_css("filter", "blur(6px)")
    # and what takes the place of one that is not is never seen as it is
    page.evaluate(
        """id => {
        const widget = app.graph.getNodeById(1).widgets.find(each => each.name === "image_id");
        widget.value = id;
        widget.callback(id);
    }""",
        NSFW,
    )
    expect(nsfw).to_have_count(2)
    expect(nsfw.first).to_have_css("filter", "blur(6px)")


def slowly(count: int) -> dict[str, Any]:
    """A batch whose items take a while each."""
    large = {"upscale_method": "lanczos", "width": 4096, "height": 4096, "crop": "disabled"}
    return saved(
        {
            "picture": ("LunaDTImageLoader", {"image_id": 1}),
            "large": ("ImageScale", {"image": ("picture", 0), **large}),
            "writer": ("LunaDTMetadataWriter", {"image": ("large", 0), "operation": "upscale"}),
            "batch": ("LunaDTBatchQueue", {"image_ids": f"1-{count}", "operation": "upscale"}),
        }
    )


def test_what_the_page_clears_is_cancelled(page: Any, comfyui: ComfyUI, tmp_path: Path) -> None:
    open_saved(page, slowly(40), tmp_path)
    shown = comfyui.run_in(page)["outputs"]["4"]["text"][0]
    with Library(comfyui.home, dt=AWAY) as library:
        batch = str(shown).split()[1].rstrip(":")
        until(lambda: library.batches.get(batch).counts.get("done"))
        page.evaluate("app.extensionManager.command.execute('Comfy.ClearPendingTasks')")
        until(lambda: not library.batches.get(batch).is_open)
        counts = library.batches.get(batch).counts
    assert set(counts) == {"done", "cancelled"}
    assert sum(counts.values()) == 40
    assert counts["cancelled"] > 10


def test_interrupting_a_batch_cancels_what_is_not_queued(page: Any, comfyui: ComfyUI, tmp_path: Path) -> None:
    open_saved(page, slowly(100), tmp_path)
    with Library(comfyui.home, dt=AWAY) as library:
        known = {batch.id for batch in library.batches.all()}
        # what was asked for a moment ago would be taken for a double click
        ids = "1-100" + ", 1-100" * (19 + len(known))
        page.evaluate("ids => { app.graph.getNodeById(4).widgets[0].value = ids; }", ids)
        page.keyboard.press("Control+Enter")
        until(lambda: {batch.id for batch in library.batches.all()} - known)
        page.evaluate("app.extensionManager.command.execute('Comfy.Interrupt')")
        time.sleep(1)
        page.evaluate("app.extensionManager.command.execute('Comfy.ClearPendingTasks')")
        until(lambda: not any(batch.is_open for batch in library.batches.all()))
        counts = library.batches.all()[0].counts
    assert "lost" not in counts
    assert counts["cancelled"] > 100


# -- what users do with a workflow --------------------------------------------------------------------


def test_a_workflow_opens_from_a_picture_that_the_writer_saved(
    page: Any, comfyui: ComfyUI, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    for kind, end in (("png", ".png"), ("webp", ".webp")):
        values = {**WRITER, "image": ("picture", 0), "prompt": name, "filename_prefix": "again", "file_format": kind}
        open_saved(
            page,
            saved({"picture": ("LunaDTImageLoader", {"image_id": 7}), "writer": ("LunaDTMetadataWriter", values)}),
            tmp_path,
        )
        shown = comfyui.run_in(page)["outputs"]["2"]["images"][0]
        picture = next((comfyui.log.parent / "output").rglob(shown["filename"]))
        assert picture.suffix == end
        before = prompt(page)
        page.evaluate("app.graph.clear()")
        page.locator("#comfy-file-input").set_input_files(picture)
        page.wait_for_function("app.graph.nodes.length === 2")
        assert prompt(page) == before


def test_a_workflow_in_api_format_opens_with_its_values(page: Any, tmp_path: Path) -> None:
    open_saved(page, sampled("77: Gone (3)"), tmp_path)
    before = prompt(page)
    page.evaluate("app.graph.clear()")
    file = tmp_path / "api.json"
    file.write_text(json.dumps(before))
    page.locator("#comfy-file-input").set_input_files(file)
    page.wait_for_function("app.graph.nodes.length === 3")
    page.wait_for_timeout(300)
    assert prompt(page)["1"]["inputs"] == before["1"]["inputs"]


def test_a_node_saved_with_fewer_inputs_and_outputs_has_all_of_them(page: Any, tmp_path: Path) -> None:
    workflow = saved(
        {
            "picture": ("LunaDTImageLoader", {"image_id": 7}),
            "search": ("LunaDTSimilarSearch", {"reference_image": ("picture", 0), "top_k": 3}),
            "shown": ("PreviewImage", {"images": ("search", 0)}),
        }
    )
    loader, search = workflow["nodes"][:2]
    loader["widgets_values"], search["widgets_values"] = loader["widgets_values"][:1], search["widgets_values"][:3]
    loader["outputs"], search["outputs"] = loader["outputs"][:6], search["outputs"][:4]
    open_saved(page, workflow, tmp_path)
    told = prompt(page)
    assert (told["1"]["inputs"]["image_id"], told["1"]["inputs"]["query"]) == (7, "")
    assert (told["2"]["inputs"]["when_empty"], told["2"]["inputs"]["exclude_source"]) == ("error", True)
    outputs = page.evaluate("app.graph.nodes.map(node => node.outputs.map(output => output.name))")
    assert (outputs[0][-1], outputs[1][-1]) == ("image_id", "similarities")


def test_a_copy_of_a_node_has_its_values_and_its_own_picker(page: Any, tmp_path: Path) -> None:
    values = {"reference_image_id": 7, "top_k": 3, "min_similarity": 0.2, "where": "cat"}
    workflow: dict[str, Any] = {
        "search": ("LunaDTSimilarSearch", values),
        "shown": ("PreviewImage", {"images": ("search", 0)}),
    }
    open_saved(page, saved(workflow), tmp_path)
    page.evaluate("""() => {
        app.canvas.selectNode(app.graph.getNodeById(1));
        app.canvas.copyToClipboard();
        app.canvas.pasteFromClipboard();
        const copy = app.graph.nodes.find(node => node.type === "LunaDTSimilarSearch" && node.id !== 1);
        const shown = LiteGraph.createNode("PreviewImage");
        app.graph.add(shown);
        copy.connect(0, shown, 0);
    }""")
    first, copy = [node["inputs"] for node in prompt(page).values() if node["class_type"] == "LunaDTSimilarSearch"]
    assert first == copy
    pickers = page.evaluate(
        "app.graph.nodes.map(node => (node.widgets ?? []).filter(widget => widget.name === 'luna_picker').length)"
    )
    assert sorted(pickers) == [0, 0, 1, 1]
    copied = "app.graph.nodes.find(node => node.type === 'LunaDTSimilarSearch' && node.id !== 1)"
    page.evaluate(f"{copied}.widgets.find(widget => widget.name === 'reference_image_id').value = 9")
    told = [node["inputs"] for node in prompt(page).values() if node["class_type"] == "LunaDTSimilarSearch"]
    assert sorted(each["reference_image_id"] for each in told) == [7, 9]


@pytest.mark.parametrize("mode", [2, 4], ids=["muted", "bypassed"])
def test_what_is_muted_or_bypassed_is_not_recorded_or_queued(
    page: Any, comfyui: ComfyUI, tmp_path: Path, request: pytest.FixtureRequest, mode: int
) -> None:
    name = request.node.name
    workflow = saved(
        {
            "picture": ("LunaDTImageLoader", {"image_id": 7}),
            "writer": ("LunaDTMetadataWriter", {**WRITER, "image": ("picture", 0), "prompt": name}),
            "shown": ("PreviewImage", {"images": ("writer", 0)}),
            "batch": ("LunaDTBatchQueue", {"image_ids": "1-3", "operation": "img2img"}),
            "other": ("PreviewImage", {"images": ("picture", 0)}),
        }
    )
    for node in (workflow["nodes"][1], workflow["nodes"][3]):
        node["mode"] = mode
    open_saved(page, workflow, tmp_path)
    with Library(comfyui.home, dt=AWAY) as library:
        batches = len(library.batches.all())
        ended = comfyui.run_in(page)
        assert ended["status"]["status_str"] == "success"
        assert ("3" in ended["outputs"]) == (mode == 4)  # a writer that is bypassed hands its picture on
        assert len(library.batches.all()) == batches
        assert not [entry for entry in library.outbox.entries() if entry.generation.prompt == name]


def test_nodes_in_a_subgraph_record_and_queue_as_outside(
    page: Any, comfyui: ComfyUI, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    values = {**WRITER, "source_image_id": 3, "image": ("picture", 0), "prompt": name, "seed": 4711}
    workflow: dict[str, Any] = {
        "picture": ("LunaDTImageLoader", {"image_id": 3}),
        "writer": ("LunaDTMetadataWriter", values),
        "shown": ("PreviewImage", {"images": ("writer", 0)}),
        "batch": ("LunaDTBatchQueue", {"image_ids": "5, 6", "operation": "variation"}),
    }
    open_saved(page, saved(workflow), tmp_path)
    if not page.evaluate("typeof app.graph.convertToSubgraph === 'function'"):
        pytest.skip("this front end has no subgraphs")
    page.evaluate("() => { app.graph.convertToSubgraph(new Set([1, 2].map(id => app.graph.getNodeById(id)))); }")
    open_saved(page, json.loads(page.evaluate("JSON.stringify(app.graph.serialize())")), tmp_path)
    inside = {node["class_type"]: node["inputs"] for node in prompt(page).values()}
    assert inside["LunaDTMetadataWriter"]["seed"] == 4711
    assert inside["LunaDTImageLoader"]["image_id"] == 3
    assert comfyui.run_in(page)["status"]["status_str"] == "success"
    with Library(comfyui.home, dt=AWAY) as library:
        until(lambda: not any(batch.is_open for batch in library.batches.all()))
        made = [entry.generation for entry in library.outbox.entries() if entry.generation.prompt == name]
    assert sorted((each.source_image_id, each.operation, each.seed) for each in made) == [
        (3, "img2img", 4711), (5, "variation", 4711), (6, "variation", 4711),
    ]  # fmt: skip


def test_two_tabs_keep_what_each_shows(page: Any, comfyui: ComfyUI, tmp_path: Path) -> None:
    other = page.context.new_page()
    other.set_default_timeout(30_000)
    comfyui.open_in(other)
    for tab, label in ((page, "1: Luna"), (other, "2: Snorri")):
        open_saved(tab, sampled(label), tmp_path)
    ids = [comfyui.run_in(tab)["outputs"]["3"]["text"] for tab in (page, other)]
    assert [prompt(tab)["1"]["inputs"]["cluster"] for tab in (page, other)] == ["1: Luna", "2: Snorri"]
    with Library(comfyui.home, dt=AWAY) as library:
        for cluster, chosen in zip((1, 2), ids, strict=True):
            assert set(map(int, chosen)) <= {member.image.id for member in library.cluster_images(cluster, 50)}


def test_a_batch_is_told_on_its_own_node_only(page: Any, comfyui: ComfyUI, tmp_path: Path) -> None:
    open_saved(page, slowly(12), tmp_path)
    comfyui.run_in(page)
    other: dict[str, Any] = {
        "one": ("LunaDTImageLoader", {"image_id": 1}),
        "two": ("PreviewImage", {"images": ("one", 0)}),
        "three": ("LunaDTPromptInjector", {"image_id": 2}),
        "four": ("PreviewAny", {"source": ("three", 0)}),
    }
    (tmp_path / "other.json").write_text(json.dumps(saved(other)))
    page.evaluate(
        "{ window.heard = []; app.api.addEventListener('luna_dt.text', told => heard.push(told.detail.text)); }"
    )
    page.locator("#comfy-file-input").set_input_files(tmp_path / "other.json")
    page.wait_for_function("app.graph.getNodeById(4)?.type === 'PreviewAny'")
    page.wait_for_function("heard.some(text => text.startsWith('batch'))", timeout=60_000)
    page.wait_for_timeout(500)
    shown = "app.graph.getNodeById(4).widgets?.map(widget => `${widget.name}: ${widget.value}`) ?? []"
    assert not [each for each in page.evaluate(shown) if "batch" in each]


def test_a_workflow_in_another_tab_of_the_page_comes_back_as_it_was(page: Any, tmp_path: Path) -> None:
    values = {"cluster": "77: Gone (3)", "sample_count": 2, "min_quality": 0, "sort_by": "random", "seed": 77}
    workflow: dict[str, Any] = {
        "sampler": ("LunaDTClusterSampler", values),
        "text": ("PreviewAny", {"source": ("sampler", 3)}),
        "dt": ("LunaDTPromptInjector", {"image_id": 0}),
        "prompt": ("PreviewAny", {"source": ("dt", 0)}),
    }
    open_saved(page, saved(workflow), tmp_path)
    page.evaluate("app.canvas.selectNode(app.graph.getNodeById(3))")
    page.get_by_role("button", name="Luna DT: your pictures").click()
    page.locator(".luna-tile img[src]").nth(5).wait_for()
    page.locator(".luna-tile").nth(2).click(button="right")
    page.get_by_role("menuitem", name="into").click()
    before = prompt(page)
    assert before["3"]["inputs"]["image_id"] > 0
    page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    page.wait_for_function("app.graph.nodes.length === 0")
    page.evaluate("app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    page.wait_for_function("app.graph.nodes.length === 4")
    page.wait_for_timeout(300)
    assert prompt(page) == before
