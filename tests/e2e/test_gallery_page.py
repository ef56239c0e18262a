"""The gallery in a real browser: its page over a drawn library, by mouse and keyboard."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt import Library
from luna_dt.demo import drawing
from luna_dt.gallery.answers import Gallery
from tests.browser import CHROMIUM, HOSTILE, chromium, draw_home, dropped, serious, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]
PICTURES = 90


@pytest.fixture(scope="module")
def drawn_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_home(tmp_path_factory.mktemp("gallery"), PICTURES)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Any, drawn_home: Path) -> Iterator[Any]:
    """The page over the drawn library; whatever the console says ends the test."""
    with (
        Library(drawn_home / "home", dt=str(drawn_home / "pictures")) as library,
        served(Gallery(lambda: library)) as port,
    ):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        told: list[str] = []
        opened.on(
            "console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None
        )
        opened.on("pageerror", lambda error: told.append(str(error)))
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.locator(".luna-tile img[src]").nth(10).wait_for()
        opened.get_by_label("Model").locator("option").nth(1).wait_for(state="attached")  # the last that it learns
        yield opened
        context.close()
    # a query that cannot be read is refused, and the browser notes every refusal
    assert [line for line in told if "422" not in line] == []


def shown(page: Any) -> str:
    return str(page.locator(".luna-count").inner_text())


def ask(page: Any, query: str) -> None:
    page.get_by_label("Query in DT's language").fill(query)
    page.keyboard.press("Enter")


def wait_shown(page: Any, text: str) -> None:
    expect(page.locator(".luna-count")).to_contain_text(text)


def test_a_query_finds_and_a_wrong_one_says_where(page: Any) -> None:
    assert shown(page) == f"{PICTURES + 1} pictures"
    page.keyboard.press("/")
    page.keyboard.type("fish")
    page.keyboard.press("Enter")
    expect(page.locator(".luna-count")).not_to_contain_text(str(PICTURES + 1))
    assert re.fullmatch(r"\d+ pictures", shown(page))
    ask(page, "rating: many")
    page.get_by_role("alert").filter(has_text="rating: many").wait_for()
    ask(page, "\U0001f600\U0001f600 fish, x  rating: many")
    expect(page.locator(".luna-wrong mark")).to_have_text("rating: many")
    ask(page, "")
    wait_shown(page, f"{PICTURES + 1} pictures")
    assert not page.locator(".luna-wrong").is_visible()
    ask(page, "nothing is like this")
    page.get_by_text("No picture fits the query.").wait_for()


def test_a_filter_takes_the_place_of_its_token(page: Any) -> None:
    query = page.get_by_label("Query in DT's language")
    query.fill('fish, "rating: 1, not" not rating: none model hash: ab12 rating: 3')
    page.get_by_label("Rating").select_option(">= 7")
    expect(query).to_have_value('fish, "rating: 1, not" model hash: ab12 rating: >= 7')
    page.get_by_label("Maps").select_option("map")
    page.get_by_label("Rating").select_option("")
    expect(query).to_have_value('fish, "rating: 1, not" model hash: ab12 has: map')
    page.get_by_label("Maps").select_option("")
    expect(query).to_have_value('fish, "rating: 1, not" model hash: ab12')
    ask(page, "")
    wait_shown(page, f"{PICTURES + 1} pictures")
    page.get_by_label("Maps").select_option("map")
    wait_shown(page, "1 picture")


def test_tokens_models_and_tags_are_suggested(page: Any) -> None:
    query = page.get_by_label("Query in DT's language")
    query.press_sequentially("mod")
    page.get_by_role("option", name="model:", exact=True).wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert query.input_value().startswith("model")
    query.fill("")
    query.press_sequentially("model: ev")
    page.get_by_role("option", name="evil", exact=True).click()
    page.keyboard.press("Enter")
    wait_shown(page, "1 picture")
    assert query.input_value() == "model: evil"
    query.fill("")
    query.press_sequentially("tag: squ")
    page.get_by_role("option", name="green square", exact=True).click()
    page.keyboard.press("Enter")
    wait_shown(page, "1 picture")


def test_chosen_pictures_become_a_training_set(page: Any, drawn_home: Path) -> None:
    page.locator(".luna-tile").nth(0).click()
    page.locator(".luna-tile").nth(1).click(modifiers=["Shift"])
    page.get_by_role("button", name="training set …").click()
    page.get_by_label("Word that each caption begins with").fill("snorri")
    page.get_by_label("Beside each picture").select_option("prompt")
    page.get_by_role("button", name="export", exact=True).click()
    expect(page.get_by_role("dialog", name="Training set")).to_contain_text("2 pictures are in")
    (folder,) = (drawn_home / "home" / "exports").iterdir()
    assert len(list(folder.glob("*.png"))) == 2
    assert [file.read_text(encoding="utf-8")[:7] for file in folder.glob("*.txt")] == ["snorri,"] * 2
    page.get_by_role("dialog", name="Training set").get_by_role("button", name="Close").click()


def test_similar_to_a_picture_to_a_text_and_to_a_dropped_one(page: Any, tmp_path: Path) -> None:
    page.locator(".luna-tile").nth(2).click(button="right")
    page.get_by_role("menuitem", name="similar: style").click()
    wait_shown(page, "found")
    assert re.fullmatch(r"[01]\.\d{3}", page.locator(".luna-note").first.inner_text())
    page.get_by_label("Text that pictures are to be like").fill("a red fish")
    page.keyboard.press("Enter")
    assert page.locator(".luna-chip").count() == 2
    page.get_by_role("button", name="clear").click()
    wait_shown(page, f"{PICTURES + 1} pictures")
    import random

    reference = drawing.draw(drawing.random_scene(random.Random(3), "cat"), (96, 96))
    reference.save(tmp_path / "reference.png")
    transfer = dropped(page, (tmp_path / "reference.png").read_bytes())
    page.dispatch_event(".luna-gallery", "drop", {"dataTransfer": transfer})
    page.get_by_text("reference.png").wait_for()
    wait_shown(page, "found")
    weight = page.get_by_label("Weight of reference.png")
    weight.fill("-1")
    weight.press("Enter")
    page.locator(".luna-chip.luna-minus").wait_for()


def test_a_hostile_prompt_is_text(page: Any) -> None:
    ask(page, "model: evil")
    wait_shown(page, "1 picture")
    page.locator(".luna-tile").first.dblclick()
    page.get_by_text(HOSTILE).wait_for()
    assert page.get_by_role("dialog").locator(".luna-prompt img").count() == 0
    page.get_by_alt_text("canny map").wait_for()
    assert page.title() == "Luna DT gallery"
    page.keyboard.press("Escape")
    expect(page.locator(".luna-detail")).not_to_be_visible()


def test_the_keyboard_goes_through_pictures(page: Any) -> None:
    page.locator(".luna-grid").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowRight")
    page.get_by_text("2 chosen").wait_for()
    page.locator(".luna-selection").get_by_role("button", name="compare").click()
    expect(page.locator(".luna-compare img")).to_have_count(2)
    page.keyboard.press("Escape")
    page.locator(".luna-grid").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(page.locator(".luna-facts h2")).to_be_visible()
    first = page.get_by_role("heading", name=re.compile("^Image")).inner_text()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".luna-facts h2")).not_to_have_text(first)


def test_keys_stay_in_the_panel(page: Any) -> None:
    page.evaluate("document.addEventListener('keydown', () => { window.heard = (window.heard ?? 0) + 1; })")
    page.locator(".luna-tile").first.click()
    for key in ("Delete", "w", "ArrowDown", "Control+a"):
        page.keyboard.press(key)
    assert page.evaluate("window.heard ?? 0") == 0


def test_keys_stay_in_the_panel_where_what_was_pressed_is_gone(page: Any) -> None:
    page.evaluate("document.addEventListener('keydown', () => { window.heard = (window.heard ?? 0) + 1; })")
    page.locator(".luna-tile").nth(3).dblclick()
    heading = page.locator(".luna-facts h2")
    first = heading.inner_text()
    page.get_by_role("button", name="The next picture").click()
    expect(heading).not_to_have_text(first)
    page.keyboard.press("Delete")
    page.keyboard.press("ArrowLeft")
    expect(heading).to_have_text(first)
    page.keyboard.press("Escape")
    page.locator(".luna-tile").first.click(button="right")
    page.get_by_role("menuitem", name="similar: visual").click()
    page.get_by_role("button", name="clear", exact=True).click()
    expect(page.locator(".luna-chip")).to_have_count(0)
    page.keyboard.press("Delete")
    assert page.evaluate("window.heard ?? 0") == 0
    page.locator("html").evaluate("each => each.dispatchEvent(new PointerEvent('pointerdown', { bubbles: true }))")
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Delete")  # elsewhere
    assert page.evaluate("window.heard ?? 0") == 1


def test_a_sync_is_started_and_its_end_seen(page: Any) -> None:
    page.get_by_role("button", name="Library").click()
    page.get_by_role("button", name="sync").click()
    expect(page.locator(".luna-sync")).to_contain_text("images, synced")
    page.get_by_role("button", name="check").click()
    page.locator(".luna-findings").get_by_text("library: ok").first.wait_for()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_axe_finds_nothing_serious(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(300)
    assert serious(page) == []
    page.locator(".luna-tile").nth(1).click(button="right")
    page.get_by_role("menuitem", name="similar: visual").click()
    wait_shown(page, "found")
    assert serious(page) == []
    page.locator(".luna-tile").nth(1).click(button="right")
    page.get_by_role("menu").wait_for()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="clear", exact=True).click()
    page.get_by_label("Query in DT's language").fill("mod")
    page.keyboard.press("m")
    page.keyboard.press("Backspace")
    page.get_by_role("option", name="model:", exact=True).wait_for()
    assert serious(page) == []
    ask(page, "rating: many")
    page.locator(".luna-wrong mark").wait_for()
    assert serious(page) == []
    ask(page, "nothing is like this")
    page.get_by_text("No picture fits the query.").wait_for()
    assert serious(page) == []
    ask(page, "model: evil")
    wait_shown(page, "1 picture")
    page.locator(".luna-tile").first.dblclick()
    page.get_by_alt_text("canny map").wait_for()
    assert serious(page) == []
    page.keyboard.press("Escape")
    ask(page, "")
    wait_shown(page, f"{PICTURES + 1} pictures")
    page.locator(".luna-tile").nth(0).click()
    page.locator(".luna-tile").nth(1).click(modifiers=["Shift"])
    assert serious(page) == []
    page.locator(".luna-selection").get_by_role("button", name="compare").click()
    expect(page.locator(".luna-compare img")).to_have_count(2)
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.locator(".luna-selection").get_by_role("button", name="training set …").click()
    page.get_by_role("dialog", name="Training set").wait_for()
    assert serious(page) == []
    page.get_by_role("dialog", name="Training set").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Library").click()
    page.get_by_role("button", name="check").click()
    page.locator(".luna-findings").get_by_text("library: ok").first.wait_for()
    assert serious(page) == []
    page.get_by_role("dialog", name="Library").get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Clusters").click()
    page.get_by_text("No clusters are here").wait_for()
    assert serious(page) == []
