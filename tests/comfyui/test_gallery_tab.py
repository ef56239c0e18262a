"""The gallery's tab in ComfyUI's real page: found, dragged, synced, and set up in ComfyUI's own dialog.

Needs what test_page.py needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt import Settings
from luna_dt.settings_file import write
from tests.browser import CHROMIUM, HOSTILE, draw_home, serious
from tests.comfy import IS_THERE, ComfyUI

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.browser,
    pytest.mark.skipif(not IS_THERE, reason="COMFYUI_PATH and COMFYUI_PYTHON are not set"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]
MADE = (
    "type => app.graph.nodes.filter(node => node.type === type).map(node => node.widgets.map(widget => widget.value))"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures and a home that mirrors them, which its settings say."""
    drawn = draw_home(tmp_path_factory.mktemp("tab"), 60)
    write(drawn / "home", {"dt": str(drawn / "pictures")})
    return drawn


@pytest.fixture(scope="module")
def comfyui(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    running = ComfyUI(
        tmp_path_factory.mktemp("base"),
        {"LUNA_DT_HOME": str(folder / "home"), "LUNA_DT_HIDE": "delete", "HF_HUB_OFFLINE": "1"},
    )
    yield running
    running.close()


@pytest.fixture
def tab(page: Any) -> Any:
    """The page with the tab open, and nothing on the canvas."""
    page.evaluate("app.graph.clear()")
    page.get_by_role("button", name="Luna DT: your pictures").click()
    page.locator(".luna-tile img[src]").nth(5).wait_for()
    page.get_by_label("Model").locator("option").nth(1).wait_for(state="attached")  # the last that it learns
    return page


def test_pictures_are_found_and_hostile_texts_shown(tab: Any) -> None:
    tab.locator(".luna-tile").nth(1).click(button="right")
    tab.get_by_role("menu").wait_for()
    assert serious(tab, ".luna-menu") == []
    tab.get_by_role("menuitem", name="similar: style").click()
    expect(tab.locator(".luna-count")).to_contain_text("found")
    tab.get_by_role("button", name="clear", exact=True).click()
    query = tab.get_by_label("Query in DT's language")
    query.fill("model: evil")
    query.press("Enter")
    expect(tab.locator(".luna-count")).to_have_text("1 picture")
    title = tab.title()
    tab.locator(".luna-tile").first.click(button="right")
    tab.get_by_role("menuitem", name="details").click()
    tab.get_by_text(HOSTILE).wait_for()
    tab.get_by_alt_text("canny map").wait_for()
    assert serious(tab, "dialog[open]") == []
    assert tab.title() == title
    tab.keyboard.press("Escape")
    tab.locator(".luna-tile").first.click(button="right")
    tab.get_by_role("menuitem", name="Similar Search").click()
    assert len(tab.evaluate(MADE, "LunaDTSimilarSearch")) == 1


def test_two_pictures_are_compared(tab: Any) -> None:
    tab.locator(".luna-tile").nth(0).click()
    tab.locator(".luna-tile").nth(1).click(modifiers=["Shift"])
    assert serious(tab, ".luna-panel") == []
    tab.locator(".luna-selection").get_by_role("button", name="compare").click()
    expect(tab.locator(".luna-compare img")).to_have_count(2)
    assert serious(tab, "dialog[open]") == []
    tab.keyboard.press("Escape")
    expect(tab.locator(".luna-compare")).not_to_be_visible()


def test_keys_of_the_picture_that_is_looked_at_do_not_reach_the_graph(tab: Any) -> None:
    tab.evaluate("addEventListener('keydown', () => { window.reached = true; })")
    tab.locator(".luna-tile").nth(1).click(button="right")
    tab.get_by_role("menuitem", name="details").click()
    heading = tab.locator(".luna-facts h2")
    first = heading.inner_text()
    tab.get_by_role("button", name="The next picture").click()  # a new button takes its place
    expect(heading).not_to_have_text(first)
    tab.keyboard.press("Delete")
    tab.keyboard.press("ArrowLeft")
    expect(heading).to_have_text(first)
    assert not tab.evaluate("window.reached")
    tab.keyboard.press("Escape")


def test_a_picture_is_dragged_to_the_canvas_and_onto_a_node(tab: Any) -> None:
    canvas = tab.locator("canvas#graph-canvas")
    tile = tab.locator(".luna-tile")
    tile.nth(0).drag_to(canvas, target_position={"x": 900, "y": 250})
    tab.wait_for_function("app.graph.nodes.length === 1")
    (first,) = tab.evaluate(MADE, "LunaDTImageLoader")
    assert first[0] > 0
    at = tab.evaluate("""() => {
        const node = app.graph.nodes[0], [x, y] = app.canvasPosToClientPos([node.pos[0] + 40, node.pos[1] - 12]);
        const box = app.canvas.canvas.getBoundingClientRect();
        return { x: x - box.left, y: y - box.top };
    }""")
    tile.nth(3).drag_to(canvas, target_position=at, force=True)
    tab.wait_for_function("before => app.graph.nodes[0].widgets[0].value !== before", arg=first[0])
    assert tab.evaluate("app.graph.nodes.length") == 1


def test_a_sync_and_a_dt_that_is_away_are_told(tab: Any, folder: Path) -> None:
    tab.get_by_role("button", name="Library", exact=True).click()
    tab.get_by_role("button", name="sync", exact=True).click()
    expect(tab.locator(".luna-sync")).to_contain_text("images, synced")
    (folder / "pictures").rename(folder / "away")
    try:
        tab.get_by_role("button", name="sync", exact=True).click()
        expect(tab.locator(".luna-sync")).to_contain_text("The last sync failed")
    finally:
        (folder / "away").rename(folder / "pictures")


def test_settings_are_written_in_comfyuis_dialog(page: Any, comfyui: ComfyUI, folder: Path) -> None:
    home = folder / "home"
    write(home, {"token": "s3cret", "device": None, "path_map": None})
    heard: list[str] = []
    page.on("response", lambda answer: heard.append(answer.text()) if "/api/settings" in answer.url else None)
    page.evaluate("app.extensionManager.command.execute('Comfy.ShowSettingsDialog')")
    page.get_by_text("Luna DT", exact=True).last.click()
    form = page.locator(".luna-form")
    expect(form.get_by_label("Where your pictures are")).to_have_value(str(folder / "pictures"))
    expect(form.get_by_label("Hidden")).to_be_disabled()
    form.get_by_text("LUNA_DT_HIDE").wait_for()
    assert form.get_by_label("Token").input_value() == ""
    assert serious(page, ".luna-form") == []
    form.get_by_label("Device").fill("cpu")
    form.get_by_label("Path map").fill("D:\\Pictures = /mnt/d\nE:/x = /mnt/x")
    form.get_by_role("button", name="save").click()
    form.get_by_text("Saved in").wait_for()
    settings = Settings.load(home, environ={})
    assert (settings.device, settings.token) == ("cpu", "s3cret")
    assert settings.path_map == {"D:\\Pictures": "/mnt/d", "E:/x": "/mnt/x"}
    form.get_by_label("Engine").fill("milvus://nowhere")
    form.get_by_role("button", name="save").click()
    form.get_by_text("a Milvus server is").wait_for()
    form.get_by_role("button", name="check").click()
    form.locator(".luna-findings").get_by_text("library: ok").first.wait_for()
    assert serious(page, ".luna-form") == []
    form.get_by_role("button", name="forget the token").click()
    form.get_by_text("Saved in").wait_for()
    assert Settings.load(home, environ={}).token == ""
    assert "s3cret" not in json.dumps(heard)
    stored = list(Path(comfyui.log).parent.rglob("comfy.settings.json"))
    assert all("mnt" not in file.read_text(encoding="utf-8") for file in stored)
