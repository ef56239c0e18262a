"""Encoding: ``luna-dt embed`` beside a plain loop over open_clip, from 1024x1024 PNG files, and one query.

    python -m bench.encode                      # ViT-H/14 at full size with random weights

Prints pictures a second, the ratio to the loop, how much of the device's own matrix rate is used, the
decode limit of the cores, how near the vectors are to single precision, and what a query takes beside its tower.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from luna_dt import Identity, ImageRecord, Library, Settings
from luna_dt.demo.drawing import draw, random_scene
from luna_dt.memory import place
from luna_dt.records import Batch, Float32s
from luna_dt.store import Store

QUERY_ROWS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="ViT-H-14")
    parser.add_argument("--pictures", type=int, help="how many (2000 on a GPU, 32 on a CPU)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    device, dtype = place(given.device)
    count = given.pictures or (32 if device.type == "cpu" else 2000)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"
    print(f"{given.architecture}, {count} PNG files of 1024x1024, {name}, {dtype}")

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = draw_files(home / "pictures", count)
        model, _, preprocess = open_clip.create_model_and_transforms(given.architecture)
        model.eval()
        (home / "models").mkdir()
        state = {key: value.contiguous() for key, value in model.visual.state_dict(prefix="visual.").items()}
        save_file(state, home / "models" / f"{given.architecture}-random.safetensors")
        dim = int(open_clip.get_model_config(given.architecture)["embed_dim"])
        identity = Identity(given.architecture, "random", "image", "projected", "squash", dim)
        settings = Settings(home=home, dt="http://127.0.0.1:9", device=given.device)

        exact = single_precision(model, identity, settings, files[:8])
        flops = flops_of_one(model)
        model.to(device, dtype)
        loop, ours = [], []
        for _ in range(given.rounds):
            loop.append(count / timed(lambda: plain_loop(model, preprocess, files, device, dtype)))
            ours.append(embedded(settings, identity, files))
        near = (vectors(settings, identity, files[:8]) * exact).sum(axis=1).min()
        model.cpu()
        decoding = decode_limit(settings, identity, files[: max(200, count // 4)])
        matrix = matrix_rate(device)
        best = max(ours)
        bound = min(0.4 * matrix / flops, decoding)
        print(f"plain loop over open_clip, batches of 32   {max(loop):10.2f} pictures/s   1.00")
        print(f"luna-dt embed                              {best:10.2f} pictures/s   {best / max(loop):.2f}")
        print(
            f"matrix rate of the device                  {matrix / 1e12:10.2f} TFLOP/s; used {best * flops / matrix:.0%}"
        )
        print(f"decode limit of the cores                  {decoding:10.2f} pictures/s; reached {best / decoding:.0%}")
        print(f"least of 40 % of the one and the other     {bound:10.2f} pictures/s; reached {best / bound:.2f} of it")
        print(f"cosine to single precision, worst of 8     {near:10.6f}")
        query(settings, identity, files)


def draw_files(folder: Path, count: int) -> list[Path]:
    """Drawn pictures with a film of noise, so that they weigh what a diffusion model's weigh (1.5 MB)."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-6, 7, (1024, 1024, 3))

    def make(i: int) -> Path:
        pixels = np.asarray(draw(random_scene(random.Random(i)), (1024, 1024)), np.int64) + np.roll(noise, 37 * i, 0)
        path = folder / f"{i}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, compress_level=4)
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(make, range(count)))


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def plain_loop(model: Any, preprocess: Any, files: list[Path], device: torch.device, dtype: torch.dtype) -> None:
    for at in range(0, len(files), 32):
        pixels = torch.stack([preprocess(Image.open(path)) for path in files[at : at + 32]])
        with torch.inference_mode():
            model.encode_image(pixels.to(device, dtype), normalize=True).cpu()


def single_precision(model: Any, identity: Identity, settings: Settings, files: list[Path]) -> Float32s:
    with Library(settings=settings.replace(device="cpu")) as library:
        tower: Any = library.encoders.tower(identity)
        pixels = np.stack([tower.prepared(Image.open(path), identity) for path in files])
    values = (pixels / 255 - np.array(open_clip.OPENAI_DATASET_MEAN)) / np.array(open_clip.OPENAI_DATASET_STD)
    with torch.inference_mode():
        found: Float32s = model.encode_image(
            torch.from_numpy(values).permute(0, 3, 1, 2).float(), normalize=True
        ).numpy()
    return found


def flops_of_one(model: Any) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    side = model.visual.image_size[0]
    with FlopCounterMode(display=False) as counter:  # in inference mode it would not see the attention
        model.encode_image(torch.zeros(1, 3, side, side))
    return int(counter.get_total_flops())


def embedded(settings: Settings, identity: Identity, files: list[Path]) -> float:
    """Pictures a second, end to end: read, decoded, encoded, stored; the tower is loaded before."""
    with Library(settings=settings) as library:
        ids = np.arange(1, len(files) + 1)
        with closing(Store(settings.home)) as store:
            store.put("images", Batch(ids, ids, [ImageRecord(int(i), str(files[i - 1])) for i in ids]))
        library.encoders.tower(identity)
        vectors_of(library, identity, files[:1])
        done = library.embed("visual", model=identity.model)
        assert done.encoded == len(files)
        library.forget("visual")
        return len(files) / done.seconds


def vectors_of(library: Library, identity: Identity, files: list[Path]) -> Float32s:
    return library.encoders.pictures(identity, [Image.open(path).convert("RGB") for path in files])


def vectors(settings: Settings, identity: Identity, files: list[Path]) -> Float32s:
    with Library(settings=settings) as library:
        return vectors_of(library, identity, files)


def decode_limit(settings: Settings, identity: Identity, files: list[Path]) -> float:
    with Library(settings=settings) as library, ThreadPoolExecutor(os.cpu_count()) as pool:
        tower = library.encoders.tower(identity)

        def one(path: Path) -> None:
            tower.prepared(Image.open(path).convert("RGB"), identity)

        return len(files) / timed(lambda: list(pool.map(one, files)))


def matrix_rate(device: torch.device) -> float:
    """FLOP/s of a large matrix product: bfloat16 on a GPU, float32 on a CPU; the best of ten."""
    size, dtype = (2048, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def run() -> None:
        a @ b
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()

    run()
    return 2 * size**3 / min(timed(run) for _ in range(10))


def query(settings: Settings, identity: Identity, files: list[Path]) -> None:
    """One picture against 100,000 vectors, the tower loaded: how much of the time is the tower's own."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((QUERY_ROWS, identity.dim), np.float32)
    ids = np.arange(1, QUERY_ROWS + 1)
    with Library(settings=settings) as library, closing(Store(settings.home)) as store:
        store.put("images", Batch(ids, ids, [ImageRecord(int(i), "x.png") for i in ids]))
        store.prepare_layer("style", identity)
        store.put("embeddings.style", Batch(ids, ids, rows))
        store.finish("embeddings.style", "bench")
        library.index()
        library.search(files[0], layer="style")
        library.wait()
        inside: list[float] = []
        tower: Any = library.encoders.tower(identity)
        forward = tower.vectors

        def watched(*given: Any) -> Float32s:
            start = time.perf_counter()
            found: Float32s = forward(*given)
            inside.append(time.perf_counter() - start)
            return found

        tower.vectors = watched
        whole = [timed(lambda path=path: library.search(path, layer="style")) for path in files[:20]]  # type: ignore[misc]
    beside = statistics.median(1 - i / w for i, w in zip(inside, whole, strict=True))
    print(
        f"one query of {QUERY_ROWS:,}: {statistics.median(whole) * 1e3:.1f} ms, {beside:.1%} of it beside the tower "
        f"(reading the file, decoding, shrinking, searching)"
    )


if __name__ == "__main__":
    main()
