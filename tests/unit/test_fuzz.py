"""Whatever settings, wire formats, A1111's text and graphs are given: an error of ours or none, and soon.

``LUNA_DT_FUZZ=300`` goes on for so many seconds with each.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from luna_dt.dt import wire
from luna_dt.errors import LunaError
from luna_dt.generation import Generation
from luna_dt.provenance import graph, parameters, picture
from luna_dt.records import Batch, Captions, Cluster, ImageRecord
from luna_dt.settings import ENVIRONMENT, Settings
from tests.conftest import image_batch, unit_vectors

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("LUNA_DT_FUZZ", "0"))
EXAMPLES = 1000 if SECONDS else 40
PER_KB, ONCE = 0.1, 0.3  # seconds of the processor's: for each kB, and for what is loaded at first

letters = some.text(some.characters())  # halves of characters among them
json_like = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | letters,
    lambda inner: some.lists(inner, max_size=5) | some.dictionaries(letters, inner, max_size=5),
    max_leaves=20,
)


def fuzz(values: some.SearchStrategy[Any], call: Callable[[Any], object], size: Callable[[Any], int]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values)
    def check(value: Any) -> None:
        start, told = time.thread_time(), "nothing"
        try:
            call(value)
        except LunaError as error:
            told = str(error)
        assert 0 < len(told) < 2000
        assert time.thread_time() - start < ONCE + PER_KB * size(value) / 1024

    end = time.monotonic() + SECONDS
    check()
    while time.monotonic() < end:
        check()


def length(value: Any) -> int:
    return len(value) if isinstance(value, (str, bytes)) else len(repr(value))


def damaged(whole: bytes) -> some.SearchStrategy[bytes]:
    """What was sent, with bytes changed, left out or put in."""
    at = some.integers(0, len(whole))
    cut = some.tuples(at, at, some.binary(max_size=12))
    return some.lists(cut, min_size=1, max_size=4).map(lambda cuts: _cut(whole, cuts))


def _cut(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for first, last, put in cuts:
        data = data[:first] + put + data[max(first, min(last, first + 20)) :]
    return data


def test_settings(tmp_path: Path) -> None:
    home = Settings(home=tmp_path)
    names = some.sampled_from(["home", *ENVIRONMENT])
    fuzz(some.tuples(names, json_like | some.dates()), lambda given: home.replace(**{given[0]: given[1]}), length)
    told = some.dictionaries(some.sampled_from(sorted(ENVIRONMENT.values())), letters)
    fuzz(told, lambda environ: Settings.load(tmp_path, environ), length)


def test_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    whole = b'dt = "http://localhost:5000"\nmaps_gb = 1.5\nmodels = ["/a"]\n[path_map]\n"D:\\\\x" = "/mnt"\n'

    def load(content: bytes) -> None:
        file.write_bytes(content)
        Settings.load(tmp_path, {})

    fuzz(some.binary() | letters.map(lambda text: text.encode(errors="surrogatepass")) | damaged(whole), load, length)


@pytest.mark.parametrize("kind", ["images", "captions", "clusters"])
def test_lines_of_records(kind: str) -> None:
    names = ["id", "image_id", "digest", "path", "rating", "seed", "tags", "members", "name", "set_aside", "created"]
    rows = some.dictionaries(some.sampled_from(names) | letters, json_like).map(lambda row: json.dumps(row).encode())
    fuzz(rows | some.binary(), lambda line: [*wire.unpack_records(kind, [line])], length)


def test_numbers() -> None:
    ids = np.arange(3, dtype=np.int64)
    listed = wire.pack_digests(ids, ids)
    fuzz(some.binary() | damaged(listed), lambda data: wire.unpack_digests(io.BytesIO(data)), length)
    vectors = b"".join(wire.pack_vectors([Batch(ids, ids, unit_vectors(3, 4))], "float32"))
    fuzz(some.binary() | damaged(vectors), lambda data: [*wire.unpack_vectors(io.BytesIO(data), 4)], length)
    lines = b"".join(wire.pack_records([image_batch(ids)]))
    fuzz(damaged(lines), lambda data: [*wire.unpack_records("images", io.BytesIO(data))], length)


def test_rows() -> None:
    for read in (
        ImageRecord.from_json,
        Generation.from_json,
        Cluster.from_json,
        lambda row: Captions.from_json(row, 1),
    ):
        names = some.sampled_from(["id", "path", "seed", "steps", "cfg", "key", "operation", "extra_metadata", "tags"])
        fuzz(some.dictionaries(names, json_like), read, length)


def test_parameters() -> None:
    words = some.sampled_from(
        ["Steps: 20", ", ", "Negative prompt:", "\n", "Seed: 7", 'Lora hashes: "a: b, c: d"', "Size: 512x512", '\\"', '"',
         "Version: ", "CFG scale: 1e999", "parameters:", "\r", "\x00", "<lora:x:1>", ":", " " * 40]
    )  # fmt: skip
    fuzz(some.lists(words | letters, max_size=40).map("".join), parameters.read, length)
    long = some.tuples(words | letters, some.integers(1, 3000)).map(lambda each: each[0] * each[1])
    fuzz(long, parameters.read, length)


def test_graphs() -> None:
    kinds = some.sampled_from(
        ["KSampler", "KSamplerAdvanced", "SamplerCustomAdvanced", "CLIPTextEncode", "ConditioningCombine", "LoraLoader",
         "CheckpointLoaderSimple", "EmptyLatentImage", "VAEDecode", "SaveImage", "Reroute", "ImageBatch", "PrimitiveNode"]
    )  # fmt: skip
    names = some.sampled_from([str(i) for i in range(12)])
    inputs = some.sampled_from(
        ["images", "samples", "model", "positive", "negative", "latent_image", "text", "clip", "seed", "steps", "cfg",
         "lora_name", "ckpt_name", "denoise", "conditioning_1", "conditioning_2", "image1", "image2", "value", "noise"]
    )  # fmt: skip
    links = some.tuples(names, some.integers(-1, 3)).map(list)
    nodes = some.fixed_dictionaries(
        {"class_type": kinds | json_like, "inputs": some.dictionaries(inputs, links | json_like)}
    )
    graphs = some.dictionaries(names, nodes | json_like, max_size=12) | json_like
    fuzz(graphs, lambda given: [graph.saved(given), graph.linked(given, "1"), *(graph.read(given, i) for i in "0123")], length)  # fmt: skip


def test_pictures() -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    texts, out = PngInfo(), io.BytesIO()
    texts.add_text("parameters", "a cat\nSteps: 20, Seed: 7, Size: 512x512", zip=True)
    texts.add_itxt("prompt", json.dumps({"1": {"class_type": "KSampler", "inputs": {"seed": 1}}}))
    Image.new("RGB", (4, 3)).save(out, "PNG", pnginfo=texts)
    fuzz(damaged(out.getvalue()) | some.binary(), lambda data: picture.read(io.BytesIO(data)), length)
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x9286], exif[0x0112] = b"UNICODE\0a\0b\0", 6
    Image.new("RGB", (4, 3)).save(out, "JPEG", exif=exif)
    fuzz(damaged(out.getvalue()), lambda data: picture.read(io.BytesIO(data)), length)
