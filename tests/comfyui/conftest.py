"""ComfyUI's page in Chromium, over whichever ComfyUI a module starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.browser import chromium, complaints
from tests.comfy import ComfyUI
from tools.make_workflows import saved


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def first_seen(browser: Any, comfyui: ComfyUI, vue: bool) -> Any:
    """A page for ComfyUI as a user has it for the first time, with either way of drawing nodes; it is not open yet."""
    requests.post(f"{comfyui.url}/settings/Comfy.VueNodes.Enabled", json=vue, timeout=60)
    opened = browser.new_context(viewport={"width": 1600, "height": 1000}).new_page()
    opened.set_default_timeout(30_000)
    return opened


@pytest.fixture(scope="module")
def theirs(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the console of ComfyUI's page says without this pack, while it is used much as the tests use it."""
    folder = tmp_path_factory.mktemp("bare")
    bare = ComfyUI(folder, {"LUNA_DT_HOME": str(folder)}, pack=False)
    workflow: dict[str, Any] = {
        "model": ("CheckpointLoaderSimple", {"ckpt_name": "gone.safetensors"}),
        "text": ("CLIPTextEncode", {"text": "a cat", "clip": ("model", 1)}),
        "shown": ("PreviewAny", {"source": ("text", 0)}),
    }
    said: set[str] = set()
    try:
        for vue in (False, True):
            page = first_seen(browser, bare, vue)
            told = complaints(page)
            bare.open_in(page)
            page.wait_for_timeout(3000)  # the models of the workflow that all begin with are looked for
            page.evaluate("workflow => app.loadGraphData(workflow)", saved(workflow))
            page.wait_for_timeout(1000)
            page.evaluate("app.refreshComboInNodes()")
            for command in ("ClearPendingTasks", "Interrupt"):
                page.evaluate(f"app.extensionManager.command.execute('Comfy.{command}')")
            for key in (
                "n",
                "n",
                "Control+a",
                "Control+Enter",
                "Escape",
                "Control+c",
                "Control+v",
                "Control+z",
                "Delete",
            ):
                page.keyboard.press(key)
                page.wait_for_timeout(300)
            said |= told.keys()
            page.context.close()
    finally:
        bare.close()
    return said


@pytest.fixture(params=["canvas", "vue"])
def page(request: pytest.FixtureRequest, browser: Any, comfyui: ComfyUI, theirs: set[str]) -> Iterator[Any]:
    """ComfyUI's page; an error or a warning in its console that is not there without this pack ends the test."""
    opened = first_seen(browser, comfyui, request.param == "vue")
    told = complaints(opened)
    comfyui.open_in(opened)
    yield opened
    opened.context.close()
    ours = {short: line for short, line in told.items() if short not in theirs or "luna_dt" in line}
    # what makes no sense is refused, and the browser notes every refusal; the canvas notes what is dragged onto it
    expected = ("status of 422", "warning: Pointer cancel!")
    assert {short: line for short, line in ours.items() if not any(each in line for each in expected)} == {}
