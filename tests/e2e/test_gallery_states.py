"""What the gallery's page says where there is nothing to show, or less than was asked for, in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("playwright", reason="Playwright is not installed: pip install '.[test]'")

from playwright.sync_api import expect

from luna_dt import Library, Settings
from luna_dt.demo import database
from luna_dt.gallery.answers import Gallery
from luna_dt.records import Batch, ImageRecord
from tests.browser import CHROMIUM, chromium, dropped, served
from tests.conftest import mirror

pytestmark = [
    pytest.mark.browser,
    pytest.mark.processes,
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium: apt-get install chromium"),
]
PICTURES = 12
AWAY = "What is synced is looked at and searched all the same"
NO_LAYER = "luna-dt embed --layer visual makes one here"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of drawn pictures, mirrored to its ``home``, without a layer."""
    database.draw_library(tmp_path / "pictures", PICTURES, seed=5)
    with Library(tmp_path / "home", dt=str(tmp_path / "pictures")) as library:
        library.sync()
    return tmp_path


@contextmanager
def shown(browser: Any, home: Path, dt: str, hide: tuple[str, ...] = ()) -> Iterator[tuple[Any, Library]]:
    settings = Settings(home=home, dt=dt, hide=hide)
    with Library(settings=settings) as library, served(Gallery(lambda: library)) as port:
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.set_default_timeout(20_000)
        thrown: list[str] = []
        page.on("pageerror", lambda error: thrown.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/")
        yield page, library
        page.close()
        assert thrown == []


def refer(page: Any, item: str | re.Pattern[str]) -> None:
    page.locator(".luna-tile").nth(1).click(button="right")
    page.get_by_role("menuitem", name=item).click()


def test_without_a_layer_each_way_to_search_by_likeness_says_what_is_to_be_done(browser: Any, folder: Path) -> None:
    with shown(browser, folder / "home", str(folder / "pictures")) as (page, library):
        notice = page.locator(".luna-notice").filter(has_text=NO_LAYER)
        text = page.get_by_label("Text that pictures are to be like")
        page.locator(".luna-tile img[src]").nth(5).wait_for()
        image = Image.new("RGB", (32, 32), "red")
        image.save(folder / "reference.png")
        reference = (folder / "reference.png").read_bytes()
        for ask in (
            lambda: refer(page, "similar: no layer yet"),
            lambda: text.fill("a fish") or text.press("Enter"),
            lambda: page.dispatch_event(".luna-gallery", "drop", {"dataTransfer": dropped(page, reference)}),
        ):
            ask()
            expect(notice).to_be_visible()
            notice.get_by_role("button", name="Close the notice").click()
            expect(notice).to_have_count(0)
        assert page.locator(".luna-chip").count() == 0
        expect(page.locator(".luna-count")).to_have_text(f"{PICTURES} pictures")
        expect(text).to_have_value("a fish")
        page.locator(".luna-tile").nth(1).dblclick()
        page.get_by_role("dialog").get_by_role("button", name="similar: no layer yet").click()
        expect(notice).to_be_visible()
        library.embed("style", model=database.TINY_JOINT.model)  # meanwhile, elsewhere
        text.press("Enter")
        expect(page.locator(".luna-count")).to_contain_text("found")
        expect(notice).to_have_count(0)
        page.dispatch_event(".luna-gallery", "drop", {"dataTransfer": dropped(page, reference)})
        expect(page.locator(".luna-chip")).to_have_count(2)
        expect(page.get_by_label("Layer of reference.png")).to_have_value("style")
        page.get_by_role("button", name="clear").click()
        refer(page, "similar: style")
        expect(page.locator(".luna-count")).to_contain_text("found")


def test_an_empty_library_whose_dt_is_away_says_both_in_the_panel(browser: Any, folder: Path) -> None:
    away = folder / "away"
    (folder / "pictures").rename(away)
    with shown(browser, folder / "other", str(folder / "pictures")) as (page, _):
        page.get_by_text("Nothing is here yet").wait_for()
        page.locator(".luna-empty").get_by_role("button", name="sync").click()
        notice = page.locator(".luna-notice").filter(has_text="The last sync failed")
        expect(notice).to_contain_text("is its drive plugged in?")
        expect(notice).to_contain_text(AWAY)
        away.rename(folder / "pictures")
        page.locator(".luna-empty").get_by_role("button", name="sync").click()
        expect(page.locator(".luna-count")).to_have_text(f"{PICTURES} pictures")
        expect(notice).to_have_count(0)
        expect(page.locator(".luna-empty")).not_to_be_visible()


def test_a_folder_that_lost_most_of_its_pictures_is_asked_about(browser: Any, tmp_path: Path) -> None:
    database.draw_library(tmp_path / "pictures", 24, seed=5)
    with Library(tmp_path / "home", dt=str(tmp_path / "pictures")) as library:
        library.sync()
    for file in sorted((tmp_path / "pictures").glob("*.png"))[4:]:
        file.unlink()
    with shown(browser, tmp_path / "home", str(tmp_path / "pictures")) as (page, _):
        count, notice = page.locator(".luna-count"), page.locator(".luna-notice").filter(has_text="nothing was changed")
        expect(count).to_have_text("24 pictures")
        page.get_by_role("button", name="Library").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="sync").click()
        expect(dialog.get_by_role("button", name="take what is there")).to_be_visible()
        dialog.get_by_role("button", name="Close").click()
        expect(count).to_have_text("24 pictures")
        notice.get_by_role("button", name="take what is there").click()
        expect(count).to_have_text("4 pictures")
        expect(notice).to_have_count(0)


def test_a_first_sync_shows_its_progress_in_the_panel_and_is_stopped_there(browser: Any, folder: Path) -> None:
    first = min((folder / "pictures").iterdir())
    for number in range(5000):  # so many that it is still going on when it is to be stopped
        os.link(first, folder / "pictures" / f"copy-{number}.png")
    with shown(browser, folder / "other", str(folder / "pictures")) as (page, _):
        page.locator(".luna-empty").get_by_role("button", name="sync").click()
        page.get_by_text("The first sync is running").wait_for()
        line = page.locator(".luna-notice").filter(has_text="syncing")
        expect(line.get_by_role("progressbar")).to_be_visible()
        line.get_by_role("button", name="stop the sync").click()
        expect(line).to_have_count(0)
        page.get_by_role("button", name="Library").click()
        expect(
            page.locator(".luna-sync").get_by_text(re.compile("Stopped; the next sync goes on|images, synced"))
        ).to_be_visible()


def test_a_dt_without_pictures_is_said_to_have_none(browser: Any, tmp_path: Path) -> None:
    with Library(tmp_path / "home", dt="http://127.0.0.1:9") as library:
        mirror(library, "images", Batch(np.empty(0, np.int64), np.empty(0, np.int64), []))
    with shown(browser, tmp_path / "home", "http://127.0.0.1:9") as (page, _):
        page.get_by_text("has no pictures. When it has, sync again.").wait_for()


def test_where_all_is_hidden_the_page_says_by_what(browser: Any, tmp_path: Path) -> None:
    with Library(tmp_path / "home", dt="http://127.0.0.1:9") as library:
        records = [ImageRecord(i, f"/{i}.png", nsfw=True) for i in (1, 2)]
        mirror(library, "images", Batch(np.arange(1, 3), np.ones(2, np.int64), records))
    with shown(browser, tmp_path / "home", "http://127.0.0.1:9", hide=("nsfw",)) as (page, _):
        page.get_by_text("All of the 2 pictures are hidden").wait_for()


def test_a_picture_whose_file_is_gone_says_why(browser: Any, folder: Path) -> None:
    with shown(browser, folder / "home", str(folder / "pictures")) as (page, library):
        page.locator(".luna-tile img[src]").nth(5).wait_for()
        (gone,) = library.images("path: *00001-*")
        Path(gone.path).unlink()
        query = page.get_by_label("Query in DT's language")
        query.fill("path: *00001-*")
        query.press("Enter")
        expect(page.locator(".luna-count")).to_have_text("1 picture")
        page.locator(".luna-tile").first.dblclick()
        told = page.get_by_role("dialog").get_by_role("alert")
        expect(told).to_contain_text(f"image {gone.id} could not be opened")
        expect(told).to_contain_text("The check in “Library” tells more.")
        page.keyboard.press("Escape")
        page.get_by_label("Size of the pictures").fill("400")  # another size is made anew
        expect(page.locator(".luna-tile.luna-missing")).to_have_count(1)
        expect(page.locator(".luna-notice:visible")).to_have_count(0)  # DT is there: nothing more to say


def test_pictures_that_only_a_dt_that_is_away_has_are_said_so_once(browser: Any, folder: Path) -> None:
    (folder / "pictures").rename(folder / "away")
    with shown(browser, folder / "home", str(folder / "pictures")) as (page, _):
        notice = page.locator(".luna-notice:visible")
        expect(notice).to_contain_text(AWAY)
        expect(notice).to_have_count(1)
        expect(page.locator(".luna-count")).to_have_text(f"{PICTURES} pictures")
        page.locator(".luna-tile").first.dblclick()
        expect(page.get_by_role("dialog").get_by_role("alert").first).to_contain_text(AWAY)


def test_what_is_nsfw_is_blurred_wherever_it_is_shown(browser: Any, tmp_path: Path) -> None:
    drawn = database.draw_library(tmp_path / "pictures", 2, seed=5)
    with Library(tmp_path / "home", dt="http://127.0.0.1:9") as library:
        records = [ImageRecord(i, str(each.path), nsfw=i == 1) for i, each in enumerate(drawn, 1)]
        mirror(library, "images", Batch(np.arange(1, 3), np.ones(2, np.int64), records))
        library.embed("visual", model=database.TINY_JOINT.model)
        library.map("canny", image_id=1)
        library.record({"operation": "variation", "source_image_id": 1, "output": str(drawn[1].path)})
    with shown(browser, tmp_path / "home", "http://127.0.0.1:9") as (page, _):
        page.get_by_label("Order").select_option("id")
        tiles = page.locator(".luna-tile img[src]")
        expect(tiles.nth(1)).to_have_css("filter", "none")
        expect(tiles.nth(0)).to_have_css("filter", "blur(18px)")
        page.locator(".luna-tile").nth(0).dblclick()
        expect(page.locator("figure img")).to_have_css("filter", "blur(40px)")
        expect(page.get_by_alt_text("canny map")).to_have_css("filter", "blur(8px)")
        expect(page.locator(".luna-lineage img").nth(0)).to_have_css("filter", "blur(8px)")
        expect(page.locator(".luna-lineage img").nth(1)).to_have_css("filter", "none")
        page.get_by_role("button", name="The next picture").click()
        expect(page.get_by_role("heading", name="Image 2")).to_be_visible()
        expect(page.locator("figure img")).to_have_css("filter", "none")
        expect(page.locator(".luna-lineage img").nth(0)).to_have_css("filter", "blur(8px)")
        page.keyboard.press("Escape")
        page.locator(".luna-tile").nth(0).click(button="right")
        page.get_by_role("menuitem", name="similar: visual").click()
        reference = page.locator(".luna-chip img")
        expect(reference).to_have_css("filter", "blur(8px)")
        page.get_by_label("blur NSFW").uncheck()
        expect(reference).to_have_css("filter", "none")
