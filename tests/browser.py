"""A real browser over the gallery: for tests, benches and the pictures in docs."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from luna_dt import Library
from luna_dt.demo import database
from luna_dt.gallery.answers import Gallery
from luna_dt.gallery.server import create_app
from luna_dt.server.run import listening, prepared

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
HOSTILE = '<img src=x onerror="document.title=1"> \u202e\u0645\u0631 🦊'
SQUARE_TAG = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject><rdf:Bag><rdf:li>green square</rdf:li></rdf:Bag></dc:subject>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)

HOSTILE_FOLDER = "<b>x\u202e 🦊"


def draw_clusters(folder: Path) -> Path:
    """A folder with a ``home`` that mirrors its ``pictures``: three subfolders, which are clusters, with 6, 4 and 1."""
    for name, number in (("Luna", 6), ("Snorri", 4), (HOSTILE_FOLDER, 1)):
        database.draw_library(folder / "pictures" / name, number, seed=number)
    with Library(folder / "home", dt=str(folder / "pictures")) as library:
        library.sync()
    return folder


def draw_home(folder: Path, pictures: int) -> Path:
    """A folder with a ``home`` that mirrors its ``pictures``, drawn ones, with two layers; one more has a hostile prompt, a
    tag and a map."""
    database.draw_library(folder / "pictures", pictures, seed=11)
    info = PngInfo()
    info.add_text(
        "parameters", f"{HOSTILE}\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 77, Size: 64x64, Model: evil"
    )
    info.add_itxt("XML:com.adobe.xmp", SQUARE_TAG)
    Image.new("RGB", (64, 64), "green").save(folder / "pictures" / "hostile.png", pnginfo=info)
    with Library(folder / "home", dt=str(folder / "pictures")) as library:
        library.sync()
        for layer in ("visual", "style"):
            library.embed(layer, model=database.TINY_JOINT.model)
        (hostile,) = library.find("model: evil")
        library.map("canny", image_id=int(hostile))
    return folder


@contextmanager
def chromium() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # of milliseconds: where others use the machine, five seconds may be too few
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def complaints(page: Any) -> dict[str, str]:
    """What a page's console has of errors and warnings from now on: each whole, with the scripts that it came through,
    under what is the same of it in every run."""
    found: dict[str, str] = {}

    def note(kind: str, text: str, stack: dict[str, Any] | None) -> None:
        scripts = []
        while stack:
            scripts += [frame["url"] for frame in stack["callFrames"]]
            stack = stack.get("parent")
        short = re.sub(r"https?://127[^/\s]*([^?\s]*)\S*", r"\1", text)
        short = re.sub(r"https?://[^\s'\"]*", "elsewhere", short)
        found.setdefault(re.sub(r"\d[\d.,% ]*", "#", f"{kind}: {short}")[:100], f"{kind}: {text} {' '.join(scripts)}")

    def called(event: dict[str, Any]) -> None:
        if event["type"] in ("error", "warning", "assert"):
            texts = (str(each.get("value", each.get("description", ""))) for each in event["args"])
            note(event["type"], " ".join(texts), event.get("stackTrace"))

    def thrown(event: dict[str, Any]) -> None:
        details = event["exceptionDetails"]
        text = f"{details['text']} {details.get('exception', {}).get('description', '')}"
        note("exception", text.partition("\n")[0], details.get("stackTrace"))

    def logged(event: dict[str, Any]) -> None:
        entry = event["entry"]
        if entry["level"] in ("error", "warning"):
            note("log", f"{entry.get('url', '')} {entry['text']}", entry.get("stackTrace"))

    session = page.context.new_cdp_session(page)
    for name, hear in {
        "Runtime.consoleAPICalled": called,
        "Runtime.exceptionThrown": thrown,
        "Log.entryAdded": logged,
    }.items():
        session.on(name, hear)
        session.send(f"{name.partition('.')[0]}.enable")
    return found


def serious(page: Any, where: Any = None) -> list[str]:
    """What axe-core finds serious or critical in a page, or only within what a selector names."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=where).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def dropped(page: Any, picture: bytes) -> Any:
    """What a browser tells of a picture's file that is dropped onto a page."""
    return page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "reference.png", { type: "image/png" }));
            return transfer;
        }""",
        list(picture),
    )


@contextmanager
def served(gallery: Gallery) -> Iterator[int]:
    """The gallery's server, on a free port of this machine."""
    server = prepared(create_app(gallery))
    listener, address = listening("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield int(address.rpartition(":")[2])
    finally:
        server.should_exit = True
        thread.join(30)
