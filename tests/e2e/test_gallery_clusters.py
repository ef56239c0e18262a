"""Clusters looked through in the gallery, in a real browser; here they are a folder's subfolders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt import Library
from luna_dt.gallery.answers import Gallery
from tests.browser import CHROMIUM, HOSTILE_FOLDER, chromium, draw_clusters, serious, served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = draw_clusters(tmp_path_factory.mktemp("clusters"))
    with (
        chromium() as browser,
        Library(folder / "home", dt=str(folder / "pictures")) as library,
        served(Gallery(lambda: library)) as port,
    ):
        opened = browser.new_page(viewport={"width": 1100, "height": 700})
        opened.set_default_timeout(20_000)
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.get_by_label("Model").locator("option").nth(1).wait_for(state="attached")  # the last that it learns
        yield opened


@pytest.fixture
def clusters(page: Any) -> Any:
    """The clusters, all of them."""
    page.get_by_role("button", name="Clusters", pressed=False).click()
    found = page.get_by_role("region", name="Clusters")
    found.get_by_label("Name of a cluster").fill("")
    expect(found.get_by_role("option")).to_have_count(3)
    yield found
    if found.is_visible():
        page.get_by_role("button", name="Clusters", pressed=True).click()
    page.get_by_label("Query in DT's language").fill("")
    page.get_by_label("Query in DT's language").press("Enter")
    expect(page.locator(".luna-pictures .luna-tile:visible")).to_have_count(11)


def test_each_is_some_of_its_pictures_with_name_and_count(page: Any, clusters: Any) -> None:
    expect(clusters.locator(".luna-tile img[src]")).to_have_count(3)
    for number in range(3):
        picture = clusters.locator(".luna-tile img").nth(number)
        page.wait_for_function("image => image.complete && image.naturalWidth > 0", arg=picture.element_handle())
    told = sorted(clusters.locator(".luna-tile:visible .luna-note").all_inner_texts())
    assert told == sorted([f"{HOSTILE_FOLDER} (1)", "Luna (6)", "Snorri (4)"])
    assert serious(page) == []


def test_one_is_found_by_its_name_and_its_pictures_looked_at(page: Any, clusters: Any) -> None:
    page.keyboard.press("/")
    page.keyboard.type("nobody")
    expect(clusters.get_by_text("No cluster has such a name.")).to_be_visible()
    clusters.get_by_label("Name of a cluster").fill("snor")
    expect(clusters.get_by_role("option")).to_have_count(1)
    clusters.get_by_role("option").dblclick()
    expect(clusters).not_to_be_visible()
    expect(page.locator(".luna-pictures .luna-tile:visible")).to_have_count(4)
    page.locator(".luna-pictures .luna-tile").first.dblclick()
    page.get_by_role("dialog", name="Picture").get_by_role("button", name="Snorri").click()
    expect(page.locator(".luna-count")).to_have_text("4 pictures")


def test_by_keys_and_by_the_menu(page: Any, clusters: Any) -> None:
    clusters.get_by_role("listbox").focus()
    page.keyboard.press("End")
    last = clusters.locator(".luna-selection > span").inner_text()
    page.keyboard.press("Home")
    expect(clusters.locator(".luna-selection > span")).not_to_have_text(last)
    page.keyboard.press("Enter")
    expect(clusters).not_to_be_visible()
    page.get_by_role("button", name="Clusters").click()
    clusters.get_by_role("option").filter(has_text="Luna (6)").click(button="right")
    page.get_by_role("menuitem", name="its pictures").click()
    expect(page.locator(".luna-pictures .luna-tile:visible")).to_have_count(6)
