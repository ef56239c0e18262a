"""A folder's first scan beside Pillow's opening each picture and reading its texts, on as many threads, in one run.

    python -m bench.folder [--files 10000]

The peer does nothing but that; the scan also finds the files, knows each by its content, reads what the texts say, and
writes it down.  Claim: at least 0.8 of the peer's rate, and an idle scan opens no picture.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from luna_dt.demo.drawing import draw, random_scene
from luna_dt.dt.folder import FolderCatalog
from luna_dt.dt.seen import READERS


def fill(folder: Path, files: int, size: int) -> None:
    """Drawn PNGs with A1111's text; a hundred drawings, each file a little different."""
    rng = random.Random(0)
    drawn = [draw(random_scene(rng), (size, size)) for _ in range(100)]
    for i in range(files):
        place = folder / f"{i // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        texts = PngInfo()
        texts.add_text(
            "parameters",
            "a portrait of a woman, soft light, film grain, best quality "
            * 3
            + "\nNegative prompt: blurry, lowres, bad hands\n"
            f"Steps: 28, Sampler: Euler a, CFG scale: 6.5, Seed: {rng.getrandbits(32)}, "
            f"Size: {size}x{size}, Model hash: ab12cd34, Model: dream",
        )
        drawn[i % 100].save(place / f"{i:05}.png", pnginfo=texts, compress_level=1)


def bare(folder: Path, decoded: bool) -> float:
    """Pillow alone: seconds for all, with what its header holds, or (``decoded``) with all texts as ``text`` has them."""

    def one(file: Path) -> object:
        with Image.open(file) as opened:
            return getattr(opened, "text") if decoded else dict(opened.info)  # noqa: B009

    files = sorted(folder.rglob("*.png"))
    start = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        for told in pool.map(one, files):
            assert told
    return time.perf_counter() - start


def scan(folder: Path, home: Path) -> tuple[float, float]:
    """Seconds of the first and of an idle scan."""
    with closing(FolderCatalog(folder, home)) as catalog:
        times = []
        for _ in range(2):
            start = time.perf_counter()
            assert catalog.kinds()[0].count
            times.append(time.perf_counter() - start)
    return times[0], times[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        fill(folder, options.files, options.size)
        rounds = [
            (bare(folder, False), bare(folder, True), *scan(folder, Path(place) / f"home{i}"))
            for i in range(options.rounds)
        ]
    info, text, first, idle = (min(times) for times in zip(*rounds, strict=True))
    print(
        f"{options.files:,} PNGs of {options.size}x{options.size}, {READERS} threads, best of {options.rounds} interleaved rounds"
    )
    for name, seconds in (("Pillow, info", info), ("Pillow, text", text), ("first scan", first), ("idle scan", idle)):
        print(
            f"{name:14}{options.files / seconds:10,.0f} files/s{info / seconds:8.2f} of info{text / seconds:8.2f} of text"
        )


if __name__ == "__main__":
    main()
