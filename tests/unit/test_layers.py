"""Layers that are proven and made here: what is planted is found, what is made is made once."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from luna_dt import Forecast, Identity, ImageRecord, Library, Settings, Term
from luna_dt.cli import main
from luna_dt.demo.database import NEGATIVE, TINY_IMAGE, TINY_JOINT, TINY_TEXT, Drawing, draw_library
from luna_dt.errors import (
    BadInput,
    BadQuery,
    IdentityMismatch,
    NotSearchable,
    OutOfMemory,
    StoreError,
    WeightsError,
)
from luna_dt.identity import FAST
from luna_dt.memory import Memory, Residency
from luna_dt.models import Encoders
from luna_dt.pixels import read_pictures
from luna_dt.records import Batch, Float32s
from tests.conftest import beside, mirror

COUNT = 120
TINY_MODEL = "luna-tiny:drawings"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> list[Drawing]:
    return draw_library(tmp_path_factory.mktemp("pictures") / "Bilder Ünï", COUNT, seed=3)


Encode = Callable[[Identity], Float32s]


@pytest.fixture(scope="module")
def shown(drawings: list[Drawing], tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """The drawings' vectors of an identity; each is made once for all tests, which is most of their time."""
    encoders = Encoders(Settings(home=tmp_path_factory.mktemp("shown"), device="cpu"))
    return functools.cache(lambda identity: encoders.pictures(identity, pictures(drawings)))


@pytest.fixture(scope="module")
def captions(drawings: list[Drawing], tmp_path_factory: pytest.TempPathFactory) -> Encode:
    """The same of their captions."""
    encoders = Encoders(Settings(home=tmp_path_factory.mktemp("captions"), device="cpu"))
    return functools.cache(lambda identity: encoders.texts(identity, [d.scene.caption for d in drawings]))


@pytest.fixture
def encoders(tmp_path: Path) -> Encoders:
    return Encoders(Settings(home=tmp_path / "home", device="cpu"))


def mirrored(
    home: Path,
    drawings: list[Drawing],
    layers: Mapping[str, tuple[Identity, Float32s]],
    residency: Residency | None = None,
) -> Library:
    """A library of those drawings as images 1, 2 … with those layers, as a sync would leave it."""
    library = Library(settings=Settings(home=home, dt="http://127.0.0.1:9", device="cpu"), residency=residency)
    ids = np.arange(1, len(drawings) + 1, dtype=np.int64)
    digests = np.ones(len(ids), np.int64)
    records = [
        ImageRecord(i, str(d.path), d.scene.caption, NEGATIVE) for i, d in zip(ids.tolist(), drawings, strict=True)
    ]
    with beside(library) as store:
        store.put("images", Batch(ids, digests, records))
        store.finish("images", "a test")
        for layer, (identity, vectors) in layers.items():
            store.prepare_layer(layer, identity)
            store.put(f"embeddings.{layer}", Batch(ids, digests, vectors))
            store.finish(f"embeddings.{layer}", "a test")
    return library


def pictures(drawings: list[Drawing]) -> list[Image.Image]:
    return [read_pictures(d.path)[0] for d in drawings]


def shifted(vectors: Float32s, first: int, last: int, by: int) -> Float32s:
    """Rows first..last hold what belongs ``by`` rows further on, as a batch sliced wrongly leaves them."""
    wrong = vectors.copy()
    wrong[first : last + 1] = vectors[first + by : last + 1 + by]
    return wrong


# -- verify -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pixels": "crop"}, "pooled, crop, 128-d"),
        ({"pixels": "squash bilinear"}, "pooled, squash bilinear, 128-d"),
        ({"output": "projected"}, "projected, squash, 128-d"),
        ({"output": "projected", "pixels": "crop"}, "projected, crop, 128-d"),
    ],
)
def test_vectors_made_in_another_known_way_are_named(
    tmp_path: Path, drawings: list[Drawing], shown: Encode, changes: Any, says: str, caplog: Any
) -> None:
    truth = replace(TINY_IMAGE, **changes)
    vectors = shown(truth)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, vectors)}) as library:
        verdict = library.verify("visual")
        assert (verdict.result, verdict.fits, verdict.passed) == ("other", truth, False)
        assert says in str(verdict)
        assert verdict.fit > 0.9999
        assert verdict.worst < 0.999
        # and a picture is now searched for in the way that fits, which is said once
        with caplog.at_level(logging.WARNING, "luna_dt"):
            hits = [library.search(drawings[i].path, top_k=1)[0] for i in range(10)]
        assert [hit.id for hit in hits] == list(range(1, 11))
        assert min(hit.similarity for hit in hits) > 0.9999
        assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
        assert "luna-dt embed --layer visual" in caplog.text


def test_half_precision_and_equal_layers_pass(
    tmp_path: Path, drawings: list[Drawing], shown: Encode, captions: Encode
) -> None:
    half = shown(replace(TINY_IMAGE, variant="half"))
    prompts = captions(TINY_TEXT)
    layers = {"visual": (TINY_IMAGE, half), "semantic": (TINY_TEXT, prompts * 7)}  # length does not matter
    with mirrored(tmp_path / "home", drawings, layers) as library:
        for layer in layers:
            verdict = library.verify(layer, sample=20)
            assert verdict.passed, verdict
            assert verdict.checked == 20
            assert verdict.worst > 0.9999
            assert verdict.spread < 1e-3
        assert next(layer.state.verdict for layer in library.status().layers) is not None


@pytest.mark.parametrize(("first", "last", "by"), [(40, 70, 1), (0, 20, 3), (90, 119, -2)])
def test_rows_at_the_wrong_place_are_located(
    tmp_path: Path, drawings: list[Drawing], shown: Encode, first: int, last: int, by: int
) -> None:
    right = shown(TINY_IMAGE)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, shifted(right, first, last, by))}) as library:
        verdict = library.verify("visual", sample=16)
        assert verdict.result == "rows"
        assert verdict.wrong == ((first + 1, last + 1),)
        assert verdict.shift == by
        assert verdict.wrong_is_all
        assert f"images {first + 1}-{last + 1} are wrong" in str(verdict)
        assert f"{abs(by)} further {'on' if by > 0 else 'back'}" in str(verdict)


def test_shifted_prompts_are_located_although_some_are_equal(
    tmp_path: Path, drawings: list[Drawing], captions: Encode
) -> None:
    right = captions(TINY_TEXT)
    wrong = shifted(right, 32, 63, 1)
    planted = {i + 1 for i in range(COUNT) if wrong[i] @ right[i] < 0.99}
    with mirrored(tmp_path / "home", drawings, {"semantic": (TINY_TEXT, wrong)}) as library:
        verdict = library.verify("semantic")
        assert verdict.result == "rows"
        assert {i for first, last in verdict.wrong for i in range(first, last + 1)} == planted
        assert verdict.shift == 1


def test_a_layer_shifted_from_end_to_end_is_known(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    crop = replace(TINY_IMAGE, pixels="crop")
    vectors = np.roll(shown(crop), 1, axis=0)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, vectors)}) as library:
        verdict = library.verify("visual")
        assert (verdict.result, verdict.fits, verdict.shift) == ("rows", crop, -1)
        assert verdict.wrong == ((1, COUNT),)


def test_vectors_that_nothing_known_makes_are_told(tmp_path: Path, drawings: list[Drawing], encoders: Encoders) -> None:
    noise = np.random.default_rng(1).standard_normal((COUNT, 128)).astype(np.float32)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, noise)}) as library:
        verdict = library.verify("visual")
        assert (verdict.result, verdict.fits) == ("unknown", None)
        assert "nor any known alternative" in str(verdict)
        assert library.search(drawings[0].path, top_k=3)  # searched all the same


def test_a_layer_that_cannot_be_checked_says_why(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    away = [replace(d, path=tmp_path / "gone.png") for d in drawings]
    vectors = shown(TINY_IMAGE)
    with mirrored(tmp_path / "home", away, {"visual": (TINY_IMAGE, vectors)}) as library:
        with pytest.raises(NotSearchable, match=r"cannot be verified.*gone\.png"):
            library.verify("visual")
        with pytest.raises(NotSearchable, match="holds no vectors"):
            library.verify("style")
        with pytest.raises(BadInput, match="sample"):
            library.verify("visual", sample=0)
    some = [*drawings[:60], *away[60:]]
    with mirrored(tmp_path / "other", some, {"visual": (TINY_IMAGE, vectors)}) as library:
        verdict = library.verify("visual", sample=40)
        assert verdict.passed
        assert (verdict.checked, verdict.unreadable) == (20, 20)


# -- embed ------------------------------------------------------------------------------------------


def own_drawings(drawings: list[Drawing], folder: Path, count: int) -> list[Drawing]:
    folder.mkdir()
    return [replace(d, path=Path(shutil.copy2(d.path, folder / d.path.name))) for d in drawings[:count]]


def test_a_layer_is_made_here_and_found_by_picture_id_and_text(
    tmp_path: Path, drawings: list[Drawing], shown: Encode
) -> None:
    with mirrored(tmp_path / "home", drawings, {}) as library, beside(library) as store:
        seen: list[tuple[str, int, int]] = []
        done = library.embed("style", model=TINY_MODEL, progress=lambda *told: seen.append(told))
        assert (done.encoded, done.unchanged, done.read, done.skipped) == (COUNT, 0, COUNT, ())
        assert seen[0] == ("embed.style", 0, COUNT)
        assert ("embed.style", COUNT, COUNT) in seen
        expected = shown(TINY_JOINT)
        layer = store.layer("style")
        np.testing.assert_allclose(layer.vectors[np.argsort(layer.ids)], expected, atol=1e-5)
        assert library.verify("style").passed
        assert library.search(drawings[4].path, layer="style", top_k=1)[0].id == 5
        by_text = library.search(text="a large red cat in the middle", layer="style", top_k=3)
        assert sum("cat" in hit.image.prompt for hit in by_text) >= 2
        again = library.embed("style")  # by the same model as before
        assert (again.encoded, again.unchanged, again.read) == (0, COUNT, 0)


def test_ten_thousand_pictures_embed_twice_and_the_second_time_none_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    count = 10_000
    paths = []
    for i in range(count):
        path = folder / f"{i}.bmp"
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
        paths.append(path)
    with Library(settings=Settings(home=tmp_path / "home", dt="http://127.0.0.1:9", index="exact")) as library:
        ids = np.arange(1, count + 1)
        records = [ImageRecord(i + 1, str(path)) for i, path in enumerate(paths)]
        mirror(library, "images", Batch(ids, np.ones(count, np.int64), records))
        first = library.embed("visual", model=TINY_MODEL)
        assert (first.encoded, first.read) == (count, count)
        (file,) = (tmp_path / "home" / "vectors").glob("visual-*.f32")
        before = file.stat().st_size
        for path in paths:  # what would be read now is no picture any more
            seen = path.stat()
            path.write_bytes(b"\0" * seen.st_size)
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        second = library.embed("visual")
        assert (second.encoded, second.read, second.unchanged, second.skipped) == (0, 0, count, ())
        assert list(file.parent.iterdir()) == [file]
        assert file.stat().st_size == before


def test_only_what_changed_is_made_again_and_broken_pictures_are_listed(
    tmp_path: Path, drawings: list[Drawing]
) -> None:
    own = own_drawings(drawings, tmp_path / "own", 30)
    own[7].path.write_bytes(b"no picture")
    own[8].path.unlink()
    with mirrored(tmp_path / "home", own, {}) as library:
        first = library.embed("visual", model=TINY_MODEL)
        assert first.encoded == 28
        assert [image_id for image_id, _ in first.skipped] == [9, 8]
        assert "00009" in first.skipped[0][1]
        assert "image 8" in first.skipped[1][1]
        second = library.embed("visual")
        # the broken one is known, the missing one is looked for again
        assert (second.encoded, second.read, [i for i, _ in second.skipped]) == (0, 0, [9])
        # without their words, which would show that DT means others
        read_pictures(drawings[50].path)[0].save(own[7].path)  # mended
        read_pictures(drawings[51].path)[0].save(own[3].path)  # painted over
        os.utime(own[4].path)  # touched: read, but the same
        third = library.embed("visual")
        assert (third.encoded, third.read) == (2, 3)
        assert library.search(drawings[51].path, top_k=1)[0].id == 4
        assert library.status().layers[0].state.unusable == 0


def test_prompts_are_embedded_too_and_their_images_with_them(tmp_path: Path, drawings: list[Drawing]) -> None:
    with mirrored(tmp_path / "home", drawings, {}) as library, beside(library) as store:
        done = library.embed("semantic", model=TINY_MODEL, where='"cat"')
        cats = sum("cat" in d.scene.caption for d in drawings)
        assert (done.encoded, done.read) == (cats, 0)
        assert library.embed("semantic").encoded == COUNT - cats
        # a prompt that changes is made anew, one that goes takes its vector along
        store.put("images", Batch(np.array([1, 2]), np.array([2, 2]),
                                  [ImageRecord(1, "a", "a new prompt"), ImageRecord(2, "b", " ")]))  # fmt: skip
        again = library.embed("semantic")
        assert (again.encoded, again.unchanged) == (1, COUNT - 2)
        assert store.layers()[0].count == COUNT - 1
        library.embed("negative", model=TINY_MODEL)
        assert library.search(text=NEGATIVE, layer="negative", top_k=1)[0].similarity > 0.999


def test_vectors_are_not_given_up_unasked_and_sync_leaves_own_layers(
    tmp_path: Path, drawings: list[Drawing], shown: Encode, server: str
) -> None:
    vectors = shown(TINY_IMAGE)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, vectors)}) as library:
        with pytest.raises(BadInput, match=r"holds 120 vectors from DT.*--replace"):
            library.embed("visual", model=TINY_MODEL)
        library.embed("visual", model=TINY_MODEL, where='"cat"', replace=True)
    with Library(tmp_path / "home", dt=server) as library:
        assert library.identity("visual") == TINY_JOINT
        changes = {change.kind for change in library.sync(accept=True)}  # it is a DT of other drawings
        assert "embeddings.visual" not in changes
        assert "embeddings.semantic" in changes
        assert library.identity("visual") == TINY_JOINT
        with pytest.raises(BadInput, match="not made here"):
            library.forget("semantic")
        library.forget("visual")
        library.sync()
        assert library.identity("visual") == TINY_IMAGE


def test_a_failed_layer_is_replaced_without_asking(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    crop = shown(replace(TINY_IMAGE, pixels="crop"))
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, crop)}) as library:
        library.verify("visual")
        assert library.embed("visual", model=TINY_MODEL).encoded == COUNT


def test_stopping_keeps_what_was_made(tmp_path: Path, drawings: list[Drawing]) -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done == 50:
            raise Stopped

    with mirrored(tmp_path / "home", drawings, {}) as library:
        with pytest.raises(Stopped):
            library.embed("visual", model=TINY_MODEL, progress=stop)
        assert library.status().layers[0].state.count == 50
        assert library.mirrors("embeddings.visual")
        assert library.embed("visual", model=TINY_MODEL).encoded == COUNT - 50
        with beside(library) as store, store.sole_writer(), pytest.raises(StoreError, match="running"):
            library.embed("visual")


class Stopped(Exception):
    """Somebody stopped it."""


def test_it_is_told_how_long_it_takes_before_most_is_done_and_the_newest_come_first(
    tmp_path: Path, drawings: list[Drawing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luna_dt.layers.embed.MEASURED", 0.0)  # the first five are measure enough
    told: list[Forecast] = []

    def stop(forecast: Forecast) -> None:
        told.append(forecast)
        raise Stopped

    with mirrored(tmp_path / "home", drawings, {}) as library, beside(library) as store:
        days = [replace(store.image(i), created=f"2026-01-{1 + i % 28:02}T00:00:00") for i in range(1, COUNT + 1)]
        mirror(library, "images", Batch(np.arange(1, COUNT + 1), np.full(COUNT, 2, np.int64), days))
        with pytest.raises(Stopped):
            library.embed("visual", model=TINY_MODEL, begins=stop)
        newest = sorted(days, key=lambda record: (record.created, record.id), reverse=True)
        assert set(store.layer("visual").ids.tolist()) == {record.id for record in newest[:5]}
        assert library.search(drawings[newest[0].id - 1].path, top_k=1)[0].id == newest[0].id  # as they come
        (forecast,) = told
        assert (forecast.count, forecast.identity) == (COUNT - 5, TINY_JOINT)
        assert forecast.seconds == pytest.approx(forecast.count / forecast.rate)
        assert forecast.to_json()["identity"]["model"] == TINY_MODEL
        assert library.embed("visual").encoded == COUNT - 5


def test_the_old_layer_answers_until_the_new_one_is_whole(
    tmp_path: Path, drawings: list[Drawing], shown: Encode
) -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done == 50:
            raise Stopped

    other = replace(TINY_JOINT, weights="other")
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, shown(TINY_IMAGE))}) as library:
        with pytest.raises(Stopped):
            library.embed("visual", model=other.model, replace=True, progress=stop)
        assert library.identity("visual") == TINY_IMAGE
        (told,) = library.status().layers
        assert (told.state.count, told.state.anew) == (COUNT, (other, 50))
        assert told.to_json()["anew"] == {"identity": other.to_json(), "vectors": 50}
        said = CliRunner().invoke(main, ["--home", str(tmp_path / "home"), "status"]).stdout
        assert "50 vectors so far; luna-dt embed --layer visual goes on" in " ".join(said.split())
        assert library.search(drawings[4].path, top_k=1)[0].id == 5
        with beside(library) as store:
            assert store.begun("visual") == other
            store.drop("images", np.array([7]))  # DT's changes reach both
        done = library.embed("visual")  # that all are made anew was said before
        assert (done.encoded, done.unchanged, done.identity) == (COUNT - 51, 50, other)
        assert library.identity("visual") == other
        assert library.status().layers[0].state.count == COUNT - 1
        assert library.verify("visual").passed
        assert library.status().layers[0].state.anew is None
        assert len({file.stem for file in (tmp_path / "home" / "vectors").iterdir()}) == 1
        with beside(library) as store:
            assert store.begun("visual") is None


def test_what_was_begun_can_be_given_up_and_pictures_that_are_away_cost_no_layer(
    tmp_path: Path, drawings: list[Drawing], shown: Encode
) -> None:
    def stop(_: str, done: int, __: int) -> None:
        if done:
            raise Stopped

    own = own_drawings(drawings, tmp_path / "own", 6)
    some = {"visual": (TINY_IMAGE, shown(TINY_IMAGE)[:6])}
    with mirrored(tmp_path / "home", own, some) as library, beside(library) as store:
        with pytest.raises(Stopped):
            library.embed("visual", model="luna-tiny:other", replace=True, progress=stop)
        library.forget("visual")
        assert (store.begun("visual"), library.identity("visual")) == (None, TINY_IMAGE)
        with pytest.raises(BadInput, match="not made here"):
            library.forget("visual")
        (tmp_path / "own").rename(tmp_path / "away")
        done = library.embed("visual", model=TINY_MODEL, replace=True)
        assert len(done.skipped) == 6
        assert (library.identity("visual"), library.status().layers[0].state.count) == (TINY_IMAGE, 6)
        (tmp_path / "away").rename(tmp_path / "own")
        assert library.embed("visual").encoded == 6
        assert library.identity("visual") == TINY_JOINT


def test_a_quality_is_a_model(tmp_path: Path, drawings: list[Drawing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAST, "image", TINY_MODEL)
    with mirrored(tmp_path / "home", drawings[:6], {}) as library:
        assert library.embed("visual", quality="fast").identity == TINY_JOINT
        with pytest.raises(BadInput, match=r"holds 6 vectors made here.*ViT-H-14.*--replace"):
            library.embed("visual", quality="best")
        with pytest.raises(BadInput, match="leave one"):
            library.embed("visual", quality="fast", model=TINY_MODEL)


def test_several_devices_share_the_work(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    with mirrored(tmp_path / "home", drawings, {}) as library:
        assert library.embed("style", model=TINY_MODEL, devices=["cpu", "cpu:0"]).encoded == COUNT
        with beside(library) as store:
            layer = store.layer("style")
        assert layer.ids.tolist() == list(range(COUNT, 0, -1))
        np.testing.assert_allclose(layer.vectors, shown(TINY_JOINT)[::-1], atol=1e-5)


def test_models_that_make_no_such_layer_are_refused(tmp_path: Path, drawings: list[Drawing]) -> None:
    with mirrored(tmp_path / "home", drawings, {}) as library, pytest.raises(BadInput, match="texts only"):
        library.embed("visual", model="some/sentences")


# -- memory -----------------------------------------------------------------------------------------


def test_where_memory_runs_out_others_leave_and_the_batch_is_halved(tmp_path: Path, drawings: list[Drawing]) -> None:
    modules: list[Any] = []
    encoders = Encoders(Settings(home=tmp_path, device="cpu"), Memory(residency=modules.append))
    opened = pictures(drawings[:40])
    expected = encoders.pictures(TINY_IMAGE, opened)
    module = modules[-1]
    encoders.texts(TINY_TEXT, ["another tower"])
    tower: Any = encoders.tower(TINY_IMAGE)
    other = encoders.tower(TINY_TEXT)
    asked = []

    def too_many(_: Any, given: Any, most: int = 5) -> None:
        asked.append(len(given[0]))
        if len(given[0]) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    hook = module.register_forward_pre_hook(too_many)
    np.testing.assert_allclose(encoders.pictures(TINY_IMAGE, opened), expected, atol=1e-5)
    assert asked[:5] == [16, 16, 8, 4, 4]  # once more after the other left, then by halves, and so it stays
    assert tower.batch == 4
    assert encoders.tower(TINY_TEXT) is not other
    hook.remove()
    module.register_forward_pre_hook(lambda module, given: too_many(module, given, most=0))
    with pytest.raises(OutOfMemory, match="LUNA_DT_DEVICE=cpu"):
        encoders.pictures(TINY_IMAGE, opened)


def test_idle_towers_leave_and_come_back(tmp_path: Path, drawings: list[Drawing]) -> None:
    memory = Memory(idle=1.0)
    encoders = Encoders(Settings(home=tmp_path, device="cpu"), memory)
    first = encoders.pictures(TINY_IMAGE, pictures(drawings[:1]))
    tower = weakref.ref(encoders.tower(TINY_IMAGE))
    deadline = time.monotonic() + 30
    while tower():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    np.testing.assert_array_equal(encoders.pictures(TINY_IMAGE, pictures(drawings[:1])), first)
    assert memory.release()
    assert not memory.release()


# -- weighted queries -------------------------------------------------------------------------------


def test_terms_are_summed_as_documented(
    tmp_path: Path, drawings: list[Drawing], encoders: Encoders, shown: Encode, captions: Encode
) -> None:
    joint = shown(TINY_JOINT)
    prompts = captions(TINY_TEXT)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_JOINT, joint)}) as library, beside(library) as store:
        store.prepare_layer("semantic", TINY_TEXT)  # the last twenty have no vector there
        some = Batch(np.arange(1, COUNT - 19), np.ones(COUNT - 20, np.int64), 3 * prompts[: COUNT - 20])
        store.put("embeddings.semantic", some)
        text = encoders.texts(TINY_JOINT, ["a red bird"])[0]
        semantic = np.vstack([prompts[: COUNT - 20], np.zeros((20, 128), np.float32)])
        terms = [
            Term(image=drawings[3].path),
            Term(text="a red bird", weight=0.5),
            Term(image_id=9, layer="semantic", weight=-0.7),
            Term(vector=5 * prompts[30], layer="semantic", weight=0.4),
        ]
        for count in (2, 4):
            total = joint @ joint[3] + 0.5 * (joint @ text)
            if count == 4:
                total += -0.7 * (semantic @ prompts[8]) + 0.4 * (semantic @ prompts[30])
                total[8] = -9  # it is a reference
            total /= sum(abs(term.weight) for term in terms[:count])
            hits = library.search(terms[:count], top_k=COUNT)
            truth = np.argsort(-total, kind="stable")[: COUNT - (count == 4)]
            assert [hit.id for hit in hits] == (truth + 1).tolist()
            np.testing.assert_allclose([hit.similarity for hit in hits], total[truth], atol=1e-5)
        first = library.search(terms, top_k=1)[0]
        assert library.search(terms, top_k=5, exclude=[first.id], min_similarity=0)[0].id != first.id
        with pytest.raises(BadInput, match="cancel each other"):
            library.search([Term(image_id=1), Term(image_id=1, weight=-1)])
        with pytest.raises(BadInput, match="weight"):
            library.search([Term(image_id=1, weight=0)])
        with pytest.raises(BadInput, match="give one of"):
            library.search([Term(image_id=1, text="two at once")])
        with pytest.raises(BadInput, match="several terms"):
            library.search([Term(image_id=1)], text="a red bird")


def test_a_picture_is_compared_with_prompts_only_through_their_joint_space(
    tmp_path: Path, drawings: list[Drawing], captions: Encode
) -> None:
    prompts = captions(TINY_TEXT)
    pooled = captions(replace(TINY_TEXT, output="pooled"))
    layers = {"composition": (TINY_TEXT, prompts), "style": (replace(TINY_TEXT, output="pooled"), pooled)}
    with mirrored(tmp_path / "home", drawings, layers) as library:
        hits = library.search(drawings[0].path, layer="composition", top_k=5)
        assert sum(drawings[0].scene.subject in hit.image.prompt for hit in hits) >= 3
        with pytest.raises(IdentityMismatch, match=r"share no space.*luna-dt embed"):
            library.search(drawings[0].path, layer="style")


# -- what a review found ----------------------------------------------------------------------------


def test_a_query_that_cannot_be_read_costs_no_layer(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    vectors = shown(TINY_IMAGE)
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, vectors)}) as library:
        with pytest.raises(BadQuery):
            library.embed("visual", where="rating:>>>(", model=TINY_MODEL, replace=True)
        assert library.status().layers[0].state.count == COUNT
        assert library.identity("visual") == TINY_IMAGE


def test_a_verdict_goes_with_the_vectors_it_judged(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    crop = shown(replace(TINY_IMAGE, pixels="crop"))
    with mirrored(tmp_path / "home", drawings, {"visual": (TINY_IMAGE, crop)}) as library:
        assert not library.verify("visual").passed
        right = shown(TINY_IMAGE)
        mirror(library, "embeddings.visual", Batch(np.arange(1, COUNT + 1), np.full(COUNT, 2, np.int64), right))
        assert library.status().layers[0].state.verdict is None
        assert library.search(drawings[3].path, top_k=1)[0].similarity > 0.999


def test_an_own_layer_that_fails_is_made_anew(tmp_path: Path, drawings: list[Drawing]) -> None:
    with mirrored(tmp_path / "home", drawings, {}) as library, beside(library) as store:
        library.embed("visual", model=TINY_MODEL)
        layer = store.layer("visual")
        digests = store.digests("embeddings.visual")[1]
        order = np.argsort(layer.ids)
        wrong = shifted(np.array(layer.vectors[order]), 20, 60, 1)
        store.put("embeddings.visual", Batch(layer.ids[order], digests, wrong))
        assert library.verify("visual").result == "rows"
        assert library.embed("visual").encoded == COUNT
        assert library.verify("visual").passed


def test_an_odd_picture_stops_nothing(tmp_path: Path, drawings: list[Drawing]) -> None:
    """A JPEG whose EXIF is damaged makes Pillow raise struct.error."""
    own = own_drawings(drawings, tmp_path / "own", 6)
    picture = read_pictures(own[2].path)[0]
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00"
    picture.save(own[2].path, "JPEG", exif=exif + b"\xff" * 3)
    with mirrored(tmp_path / "home", own, {}) as library:
        done = library.embed("visual", model=TINY_MODEL)
        assert done.encoded + len(done.skipped) == 6
        assert done.encoded >= 5


def test_pictures_that_are_away_are_not_called_wrong(tmp_path: Path, drawings: list[Drawing], shown: Encode) -> None:
    unknown = replace(TINY_IMAGE, architecture="unknown", weights="")
    vectors = shown(TINY_IMAGE)
    away = [replace(d, path=tmp_path / "gone.png") for d in drawings]
    with (
        mirrored(tmp_path / "home", away, {"visual": (unknown, vectors)}) as library,
        pytest.raises((NotSearchable, WeightsError)),
    ):
        library.verify("visual")


def test_an_encoder_that_gives_no_number_is_told_and_tried_again(tmp_path: Path, drawings: list[Drawing]) -> None:
    modules: list[Any] = []
    with mirrored(tmp_path / "home", drawings, {}, modules.append) as library:
        library.encoders.pictures(TINY_JOINT, pictures(drawings[:1]))
        hook = modules[0].register_forward_hook(lambda _, __, out: out * float("nan"))
        done = library.embed("visual", model=TINY_MODEL)
        assert (done.encoded, len(done.skipped)) == (0, COUNT)
        assert "no finite vector" in done.skipped[0][1]
        hook.remove()
        assert library.embed("visual", model=TINY_MODEL).encoded == COUNT


def test_architectures_that_are_no_vit_are_refused(tmp_path: Path, encoders: Encoders) -> None:
    folder = Settings(home=tmp_path / "home").models_folders[0]
    folder.mkdir(parents=True)
    (folder / "RN50-openai.safetensors").write_bytes(b"damaged, so not looked into")
    with pytest.raises(WeightsError, match="name a ViT"):
        encoders.tower(Identity("RN50", "openai", "image", "projected", "squash", 1024))
