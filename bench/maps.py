"""ControlNet maps: finding a kept one among 100,000, and making one beside the bare detector.

    python -m bench.maps [WEIGHTS]

``WEIGHTS`` is a folder of weights, as comfyui_controlnet_aux's ``ckpts``; without it random ones are written, which
take as long.  The bare detector is controlnet_aux's own (for segmentation transformers', for canny OpenCV) called
on the same picture in memory; ours is ``Library.map``: digest, looking for it, working picture, detector, and the
source's size.  The PNG, its file and its row are made in a thread when the map is given already.
"""

from __future__ import annotations

import hashlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ParamSpec

import cv2
import numpy as np
import torch

from luna_dt import Library, Settings
from luna_dt.demo.drawing import draw, random_scene
from luna_dt.files import sha256
from luna_dt.maps.cache import MapCache, MapKey
from luna_dt.memory import place
from luna_dt.preproc import detectors, weights
from luna_dt.preproc.frame import Frame, Pixels
from luna_dt.preproc.map_types import TYPES
from luna_dt.store import Store
from tests.weights import write as write_weights

KEPT, FOUND = 100_000, 2_000
SIDE = 1024
P = ParamSpec("P")
DISTINCT = 20  # files of kept maps; the others are links to them


def picture(seed: int) -> Pixels:
    drawn = draw(random_scene(random.Random(seed)), (SIDE, SIDE)).convert("RGB")
    pixels = np.asarray(drawn).copy()
    pixels[0, 0] = np.random.default_rng(seed).integers(0, 256, 3)
    return pixels


def seconds(run: Callable[P, object], *given: P.args, **named: P.kwargs) -> float:
    start = time.perf_counter()
    run(*given, **named)
    return time.perf_counter() - start


def bare(kind: str, folder: Path) -> Callable[[Pixels], object]:
    """The detector as its package offers it, at resolution 512."""
    if kind == "canny":
        return lambda pixels: cv2.Canny(cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA), 100, 200)
    each = TYPES[kind]
    files = weights.find(each, [folder], sha256)
    detector = detectors.load(each.detector, files)
    detector.module.to(place("auto")[0])

    def run(pixels: Pixels) -> object:
        small = cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            return detector.run(small, **each.arguments)

    return run


def finding(folder: Path, models: Path) -> None:
    settings = Settings(home=folder, dt="http://127.0.0.1:9", models=(models,), maps_gb=1000)
    with Library(settings=settings) as library, closing(Store(folder)) as store:
        making = statistics.median(seconds(library.map, "depth_midas", picture(s)) for s in range(5))
        for seed in range(5, DISTINCT):
            library.map("depth_midas", picture(seed), resolution=64)
        library.wait()
        files = sorted((folder / "maps").glob("*/*.png"))
        cache = MapCache(store, settings.maps_bytes)
        usual = TYPES["depth_midas"].parameters()
        keys = [MapKey.of(i, "depth_midas", usual) for i in range(KEPT)]
        rows: list[tuple[Any, ...]] = []
        for i, key in enumerate(keys):
            name = hashlib.blake2b(str(i).encode(), digest_size=16).hexdigest()
            file = folder / "maps" / name[:2] / f"{name}.png"
            file.parent.mkdir(exist_ok=True)
            os.link(files[i % len(files)], file)
            rows.append((*key, "w", f"{name[:2]}/{name}.png", 1, 0.0, "null"))
        with store.writing() as db:
            db.executemany(
                "INSERT INTO maps (source, kind, parameters, weights, file, bytes, used, keypoints) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
        print(
            f"{cache.size()[0]:,} maps are kept; {len(files)} distinct files, {np.mean([f.stat().st_size for f in files]):,.0f} bytes"
        )
        chosen = np.random.default_rng(0).integers(0, KEPT, FOUND)
        times = [seconds(cache.find, keys[i], "w") for i in chosen]
        print(
            f"finding one, its PNG read: {np.median(times) * 1e3:.3f} ms at the median, {np.quantile(times, 0.95) * 1e3:.3f} at p95"
        )

        def answer() -> torch.Tensor:
            found = library.map("depth_midas", source)
            assert found.was_cached
            return torch.from_numpy(np.asarray(found.picture, dtype=np.float32) / 255)[None]

        source = picture(0)
        answers = statistics.median(seconds(answer) for _ in range(50))
        print(
            f"the whole kept answer, a tensor of {SIDE}x{SIDE}: {answers * 1e3:.1f} ms; making depth_midas: "
            f"{making * 1e3:,.0f} ms: {answers / making:.1%}"
        )


class Inside:
    """The seconds that ``Library.map`` spends in the detector, one entry a call."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        load, canny = detectors.load, detectors.canny

        def timed(run: Callable[..., Any]) -> Callable[..., Any]:
            def inner(*given: Any, **named: Any) -> Any:
                start = time.perf_counter()
                made = run(*given, **named)
                self.seconds.append(time.perf_counter() - start)
                return made

            return inner

        def loaded(*given: Any) -> Any:
            detector = load(*given)
            return detectors.Detector(detector.module, timed(detector.run))

        detectors.load = loaded  # type: ignore[assignment]
        detectors.canny = timed(canny)


def making(folder: Path, models: Path) -> None:
    peers = {kind: bare(kind, models) for kind in TYPES}
    inside = Inside()
    print(f"{'type':14} {'bare, ms':>10} {'ours, ms':>10} {'ratio':>6} {'around the detector, ms':>24} {'share':>6}")
    with Library(settings=Settings(home=folder, dt="http://127.0.0.1:9", models=(models,))) as library:
        for kind, run in peers.items():
            rounds = 100 if kind == "canny" else 6
            sources = [picture(1000 + seed) for seed in range(rounds + 1)]
            alone, whole = [], []
            inside.seconds.clear()
            for turn, source in enumerate(sources):
                if turn % 2:  # who comes second finds a warmer machine
                    alone.append(seconds(run, source))
                whole.append(seconds(library.map, kind, source))
                library.wait()  # or keeping it would slow down the bare detector
                if not turn % 2:
                    alone.append(seconds(run, source))
            # the first of each loads and warms
            a, b = statistics.median(alone[1:]), statistics.median(whole[1:])
            around = statistics.median(np.subtract(whole[1:], inside.seconds[1:]))
            print(
                f"{kind:14} {a * 1e3:10,.1f} {b * 1e3:10,.1f} {b / a:6.2f} {around * 1e3:24.1f} {around / b:6.1%}",
                flush=True,
            )


def main() -> None:
    assert Frame.of(picture(0), 512).pixels.shape == (512, 512, 3)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        models = Path(sys.argv[1]) if len(sys.argv) > 1 else home / "models"
        if len(sys.argv) < 2:
            write_weights(models)
        print(f"torch {torch.__version__} on {place('auto')[0]}, {torch.get_num_threads()} threads")
        making(home / "making", models)
        finding(home / "finding", models)


if __name__ == "__main__":
    main()
