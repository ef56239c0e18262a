"""ComfyUI's page in Chromium, over whichever ComfyUI a module starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.browser import chromium
from tests.comfy import ComfyUI


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(params=["canvas", "vue"])
def page(request: pytest.FixtureRequest, browser: Any, comfyui: ComfyUI) -> Iterator[Any]:
    """ComfyUI's page as a user has it for the first time, with either way of drawing nodes; what the console says of
    ours ends the test."""
    requests.post(f"{comfyui.url}/settings/Comfy.VueNodes.Enabled", json=request.param == "vue", timeout=60)
    context = browser.new_context(viewport={"width": 1600, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    told: list[str] = []
    opened.on("console", lambda line: told.append(f"{line.type}: {line.text} {line.location.get('url', '')}"))
    opened.on("pageerror", lambda error: told.append(f"error: {error} {error.stack}"))
    comfyui.open_in(opened)
    yield opened
    context.close()
    ours = [line for line in told if line.startswith(("error", "warning")) and "luna" in line.lower()]
    # what makes no sense is refused, and the browser notes every refusal
    assert [line for line in ours if "status of 422" not in line] == []
