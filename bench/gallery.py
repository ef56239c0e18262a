"""The gallery's page over a large library: how smooth scrolling is, by the browser's own trace, and when pictures come.

    python -m bench.gallery --entries 270000

Needs Chromium and Playwright (the extra ``test``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

from luna_dt import Library
from luna_dt.demo import database
from luna_dt.gallery.answers import Gallery
from luna_dt.records import Batch, ImageRecord
from luna_dt.store import Store
from tests.browser import chromium, served

FILES = 200  # pictures there are; the entries share them
FILL_AT_ONCE, FRAMES, LOOKS = 20_000, 300, 4
#: Scrolls so many pixels a frame, for so many frames, and gives the times of each frame.
SCROLL = """([pixels, frames]) => new Promise((resolve) => {
    const grid = document.querySelector(".luna-grid"), times = [];
    let left = frames, way = pixels;
    requestAnimationFrame(function step(now) {
        times.push(now);
        if (left-- === 0) return resolve(times);
        if (grid.scrollTop + way < 0 || grid.scrollTop + way > grid.scrollHeight - grid.clientHeight) way = -way;
        grid.scrollTop += way;
        requestAnimationFrame(step);
    });
})"""

SCROLL_ON = """async (scroll) => {
    for (;;) {
        await scroll([3000, 120]);
        await new Promise((resolve) => setTimeout(resolve, 200));
    }
}"""


def fill(home: Path, entries: int) -> None:
    drawings = database.draw_library(home.parent / "pictures", FILES)
    with closing(Store(home)) as store:
        for first in range(1, entries + 1, FILL_AT_ONCE):
            ids = np.arange(first, min(first + FILL_AT_ONCE, entries + 1), dtype=np.int64)
            records = [
                ImageRecord(int(i), str(drawings[i % FILES].path), drawings[i % FILES].scene.caption, rating=int(i) % 11 or None,
                            created=f"20{10 + i % 16}-{1 + i % 12:02}-{1 + i % 28:02} 12:00:00")
                for i in ids
            ]  # fmt: skip
            store.put("images", Batch(ids, np.ones(len(ids), np.int64), records))
        store.finish("images", "a bench")


def frames_of(trace: bytes) -> np.ndarray[Any, Any]:
    """Milliseconds between the frames that were drawn, by the browser's trace."""
    events = json.loads(trace)["traceEvents"]
    drawn = sorted(event["ts"] for event in events if event["name"] == "DrawFrame")
    return np.diff(np.array(drawn)) / 1000


def scrolled(browser: Browser, page: Page, pixels: int) -> str:
    page.wait_for_timeout(1000)
    browser.start_tracing(
        page=page, categories=["disabled-by-default-devtools.timeline.frame", "devtools.timeline.frame"]
    )
    page.evaluate(SCROLL, [pixels, FRAMES])
    gaps = frames_of(browser.stop_tracing())
    p50, p95 = np.percentile(gaps, [50, 95])
    return f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, worst {gaps.max():.0f} ms of {len(gaps)} frames"


class Unwatched:
    """A tab that Playwright does not listen to: where it does, the browser keeps what the page has loaded for it."""

    def __init__(self, browser: Browser, address: str) -> None:
        self._browser, self._answers = browser.new_browser_cdp_session(), Queue[str]()
        context = self._browser.send("Target.createBrowserContext")
        where = {"url": address, "browserContextId": context["browserContextId"], "width": 1280, "height": 800}
        target = self._browser.send("Target.createTarget", where)["targetId"]
        self._browser.on("Target.receivedMessageFromTarget", lambda told: self._answers.put(told["message"]))
        self._session = self._browser.send("Target.attachToTarget", {"targetId": target, "flatten": False})["sessionId"]

    def send(self, method: str, **values: Any) -> Any:
        message = json.dumps({"id": 1, "method": method, "params": values})
        self._browser.send("Target.sendMessageToTarget", {"sessionId": self._session, "message": message})
        while self._answers.empty():
            self._browser.send("Browser.getVersion")  # by which Playwright hears of the answer
        return json.loads(self._answers.get())["result"]

    def memory(self) -> str:
        """Of JavaScript's objects after a collection, and, where Linux tells it, of all processes that show pages."""
        self.send("HeapProfiler.collectGarbage")
        told = f"{self.send('Runtime.getHeapUsage')['usedSize'] / 1e6:.1f} MB of JavaScript"
        processes = self._browser.send("SystemInfo.getProcessInfo")["processInfo"]
        files = [Path("/proc", str(each["id"]), "smaps_rollup") for each in processes if each["type"] == "renderer"]
        if not all(file.exists() for file in files):
            return told
        own = [line.split()[1] for file in files for line in file.read_text().splitlines() if line.startswith("Pss:")]
        return f"{told}, {sum(map(int, own)) / 1e3:.0f} MB with what the browser keeps of pictures"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=270_000)
    parser.add_argument("--seconds", type=float, default=60, help="of scrolling while memory is looked at")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="luna-dt-bench-") as folder, chromium() as browser:
        home = Path(folder) / "home"
        fill(home, args.entries)
        with Library(home, dt="http://127.0.0.1:9") as library, served(Gallery(lambda: library)) as port:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url) if "thumbnail" in request.url else None)
            for name in ("first opening", "second opening"):
                begun = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/", wait_until="commit")
                page.wait_for_function(
                    "() => [...document.querySelectorAll('.luna-tile img')].filter((i) => i.naturalWidth).length > 10"
                )
                print(f"{name}: first pictures after {time.perf_counter() - begun:.2f} s")
            print(f"elements: {page.locator('.luna-tile').count()} tiles of {args.entries:,}")
            for pixels in (20, 400, 40_000):
                asked.clear()
                told = scrolled(browser, page, pixels)
                print(f"{pixels:>6} px a frame: {told}, {len(asked)} pictures asked for")
            page.close()
            unwatched = Unwatched(browser, f"http://127.0.0.1:{port}/")
            time.sleep(3)
            print(f"before: {unwatched.memory()}")
            unwatched.send("Runtime.evaluate", expression=f"({SCROLL_ON})({SCROLL})")
            for part in range(LOOKS):
                time.sleep(args.seconds / LOOKS)
                print(f"after {args.seconds * (part + 1) / LOOKS:.0f} s of scrolling: {unwatched.memory()}")


if __name__ == "__main__":
    main()
