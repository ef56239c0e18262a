"""Draws docs/gallery.jpg: the gallery over a drawn library, in a real browser, by one command.

    python tools/draw_gallery.py

Needs Chromium and Playwright (the extra ``test``).
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image

from luna_dt import Library
from luna_dt.demo import database
from luna_dt.gallery.answers import Gallery
from tests.browser import chromium, served

SIZE = {"width": 1280, "height": 800}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        database.draw_library(Path(folder) / "pictures", 160, seed=11)
        with Library(Path(folder) / "home", dt=str(Path(folder) / "pictures")) as library:
            library.sync()
            library.embed("visual", model=database.TINY_JOINT.model)
            with served(Gallery(lambda: library)) as port:
                page = browser.new_page(viewport=SIZE, color_scheme="dark")
                page.goto(f"http://127.0.0.1:{port}/")
                page.get_by_label("Text that pictures are to be like").fill("a blue fish")
                page.keyboard.press("Enter")
                page.locator(".luna-note", has_text=".").first.wait_for()
                page.locator(".luna-tile img[src]").nth(20).wait_for()
                page.wait_for_timeout(1500)
                shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
                shot.save(ROOT / "docs" / "gallery.jpg", quality=85, optimize=True)


if __name__ == "__main__":
    main()
