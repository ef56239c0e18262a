"""The three places a map may come from: DT, what is kept here, making it; and what is kept, for how long."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luna_dt import Library, Settings
from luna_dt.demo import database, served
from luna_dt.errors import BadInput, BadPicture, MapMissing, PictureMissing, StoreError, UnknownImage
from luna_dt.maps.cache import MapCache, MapKey
from luna_dt.preproc import Detectors, Made
from luna_dt.records import StoredMap
from luna_dt.store import Store
from tests.conftest import Drawn, image_batch, mirror
from tests.unit.test_rest import Stranger

AWAY = "http://127.0.0.1:9"
PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")


class Count:
    """Counts what is really made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kinds: list[str] = []
        make = Detectors.make

        def counted(detectors: Detectors, kind: Any, *arguments: Any) -> Made:
            self.kinds.append(kind.name)
            return make(detectors, kind, *arguments)

        monkeypatch.setattr(Detectors, "make", counted)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Count:
    return Count(monkeypatch)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    server = Stranger()
    server.answers["/api/health"] = (200, {"status": "ok"})
    yield server
    server.close()


def opened(home: Path, dt: str = AWAY, **changes: Any) -> Library:
    return Library(settings=Settings(home=home, dt=dt, **changes))


@pytest.fixture
def picture(drawn: Drawn) -> Path:
    return drawn.drawings[30].path


def of_dt(library: Library, folder: Path, image_id: int = 3) -> Path:
    """A library that knows one image, whose file is in ``folder``."""
    file = folder / f"{image_id}.png"
    if not file.exists():
        Image.fromarray(np.random.default_rng(7).integers(0, 256, (60, 80, 3), np.uint8)).save(file)
    if not library.mirrors("images"):
        mirror(library, "images", image_batch(np.array([image_id])))
    return file


@pytest.fixture
def mapped(tmp_path: Path) -> dict[str, str]:
    return {"D:\\Bilder": str(tmp_path)}


# -- made once, and found again ---------------------------------------------------------------------------


def test_a_map_is_made_once_and_then_found(tmp_path: Path, picture: Path, made: Count) -> None:
    with opened(tmp_path) as library:
        first = library.map("canny", picture)
        again = library.map("canny", picture)
    assert (first.was_cached, again.was_cached, made.kinds) == (False, True, ["canny"])
    assert first.picture.tobytes() == again.picture.tobytes()
    assert (first.kind, first.keypoints) == ("canny", None)
    with opened(tmp_path) as library:  # also after a restart
        assert library.map("canny", picture).was_cached
        assert library.status().maps[0] == 1
        assert library.status().bytes > library.status().maps[1] > 0


def test_a_picture_is_known_by_its_content(tmp_path: Path, picture: Path, made: Count) -> None:
    shutil.copy(picture, tmp_path / "a copy.png")
    with opened(tmp_path) as library:
        library.map("canny", picture)
        assert library.map("canny", tmp_path / "a copy.png").was_cached
        assert library.map("canny", picture.read_bytes()).was_cached
        with Image.open(picture) as pixels:
            changed = pixels.convert("RGB")
        assert not library.map("canny", changed).was_cached  # pixels, which have no bytes of a file
        assert library.map("canny", np.asarray(changed)).was_cached
        changed.putpixel((0, 0), (1, 2, 3))
        assert not library.map("canny", changed).was_cached
    assert len(made.kinds) == 3


def test_each_type_and_parameter_is_a_map_of_its_own(tmp_path: Path, picture: Path, made: Count) -> None:
    ways: list[dict[str, Any]] = [{}, {"low": 50}, {"high": 100}, {"resolution": 256}, {"resolution": "source"}]
    with opened(tmp_path) as library:
        found = [library.map("canny", picture, **way) for way in ways]
        assert not any(each.was_cached for each in found)
        assert all(library.map("canny", picture, **way).was_cached for way in ways)
        library.map("canny", picture, low=100, high=200, resolution=512)
    assert len(made.kinds) == len(ways)
    assert len({each.picture.tobytes() for each in found}) > 2


def test_other_weights_make_another_map(tmp_path: Path, picture: Path, weights: Path, made: Count) -> None:
    folder = tmp_path / "models" / "lllyasviel" / "Annotators"
    folder.mkdir(parents=True)
    shutil.copy(weights / "lllyasviel/Annotators/sk_model.pth", folder)
    with opened(tmp_path) as library:
        first = library.map("lineart", picture, resolution=64)
        assert library.map("lineart", picture, resolution=64).was_cached
        import torch

        state = torch.load(folder / "sk_model.pth", weights_only=True)
        torch.save({name: -value for name, value in state.items()}, folder / "sk_model.pth")
        other = library.map("lineart", picture, resolution=64)
        assert not other.was_cached
        assert other.picture.tobytes() != first.picture.tobytes()
        (folder / "sk_model.pth").unlink()  # and without any the last one used is there still
        assert library.map("lineart", picture, resolution=64).picture.tobytes() == other.picture.tobytes()
        assert library.map("lineart", picture, resolution=64).was_cached
    assert made.kinds == ["lineart"] * 2


def test_keypoints_are_kept_with_a_pose(tmp_path: Path, weights: Path) -> None:
    from tests.weights import figure

    with opened(tmp_path, models=(weights,)) as library:
        first = library.map("openpose", figure(368)[0])
        again = library.map("openpose", figure(368)[0])
    assert again.was_cached
    assert first.keypoints == again.keypoints
    assert first.keypoints is not None
    assert len(first.keypoints["people"]) == 1


def test_many_threads_that_want_one_map_make_it_once(tmp_path: Path, picture: Path, made: Count) -> None:
    gate = threading.Barrier(8)
    with opened(tmp_path) as library, ThreadPoolExecutor(8) as pool:

        def get(_: int) -> tuple[bool, bytes]:
            gate.wait()
            found = library.map("canny", picture, resolution="source")
            return found.was_cached, found.picture.tobytes()

        found = list(pool.map(get, range(8)))
    assert made.kinds == ["canny"]
    assert sorted(was_cached for was_cached, _ in found) == [False] + [True] * 7
    assert len({data for _, data in found}) == 1


def test_two_programs_that_want_one_map_make_it_once(tmp_path: Path, picture: Path, weights: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom luna_dt import Library, Settings\n"
        f"settings = Settings(home=Path({str(tmp_path)!r}), dt={AWAY!r}, models=(Path({str(weights)!r}),))\n"
        "with Library(settings=settings) as library:\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        f"    print(library.map('softedge', Path({str(picture)!r})).was_cached)\n"
    )
    command = [sys.executable, "-c", code]
    with contextlib.ExitStack() as running:
        programs = [
            running.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(2)
        ]
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write("\n")  # to both, before either is waited for
        assert sorted(program.communicate(timeout=300)[0].strip() for program in programs) == ["False", "True"]


# -- what goes wrong with what is kept --------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["gone", "cut off", "another size"])
def test_a_kept_map_that_is_damaged_is_made_again(
    tmp_path: Path, picture: Path, made: Count, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as library:
        first = library.map("canny", picture)
        assert library.status().maps[0] == 1  # which waits until it is kept
        (file,) = (tmp_path / "maps").glob("*/*.png")
        if damage == "gone":
            file.unlink()
        elif damage == "cut off":
            file.write_bytes(file.read_bytes()[:100])
        else:
            file.write_bytes(b"")
        with caplog.at_level(logging.INFO, "luna_dt"):
            again = library.map("canny", picture)
        assert "canny map" in caplog.text or "is gone" in caplog.text
        assert not again.was_cached
        assert again.picture.tobytes() == first.picture.tobytes()
        assert library.map("canny", picture).was_cached
        assert library.status().maps[0] == 1


def test_a_map_is_kept_as_it_was_given(tmp_path: Path, weights: Path) -> None:
    from tests.weights import figure

    with opened(tmp_path, models=(weights,)) as library:
        first = library.map("openpose", figure(368)[0])
        assert first.keypoints is not None
        first.keypoints["people"].clear()  # theirs now
        first.picture.paste((255, 0, 0), (0, 0, 9, 9))
        again = library.map("openpose", figure(368)[0])
        assert again.keypoints is not None
        assert len(again.keypoints["people"]) == 1
        assert again.picture.getpixel((0, 0)) == (0, 0, 0)


def test_the_limit_is_of_the_home_and_not_of_a_program(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path)) as store:
        caches = [MapCache(store, 100_000) for _ in range(4)]
        for n in range(400):
            caches[n % 4].keep(MapKey.of(n, "canny", {}), "w", StoredMap(bytes(1000)))
            assert caches[0].size()[1] <= 105_000
        with pytest.raises(StoreError, match=r"100,001 bytes is not kept: .* 100,000 \(maps_gb\)"):
            caches[0].keep(MapKey.of(0, "canny", {}), "w", StoredMap(bytes(99_997)))


def test_many_threads_that_keep_one_map_leave_a_whole_one(tmp_path: Path) -> None:
    contents = [png((n, n, n), (200, 200)) * 20 for n in range(8)]
    with contextlib.closing(Store(tmp_path)) as store, ThreadPoolExecutor(8) as pool:
        cache, key = MapCache(store, 10**9), MapKey.of(1, "canny", {})
        for _ in range(20):
            list(pool.map(lambda content: cache.keep(key, "w", StoredMap(content)), contents))
            kept = cache.find(key, "w")
            assert kept is not None
            assert kept.stored.data in contents
        assert [file.suffix for file in (tmp_path / "maps").glob("*/*")] == [".png"]
        old = cache.find(key, "w")
        cache.keep(key, "w", StoredMap(contents[0]))
        assert old is not None
        cache.drop(old)  # which is no longer there: what came in its place stays known
        assert cache.size()[0] == 1


def test_what_was_used_least_lately_leaves_first(tmp_path: Path, made: Count) -> None:
    def noise(seed: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))

    with opened(tmp_path) as library:
        library.map("canny", noise(0), resolution=64)
        one = library.status().maps[1]
    limit = one * 10.5 / 1e9
    with opened(tmp_path, maps_gb=limit) as library:
        for seed in range(1, 10):
            library.map("canny", noise(seed), resolution=64)
        assert library.status().maps[0] == 10
        assert library.map("canny", noise(0), resolution=64).was_cached  # the oldest is used again
    with opened(tmp_path, maps_gb=limit) as library:
        for seed in range(10, 14):
            library.map("canny", noise(seed), resolution=64)
        count, size = library.status().maps
        assert size <= limit * 1e9
        assert 5 <= count <= 10
        assert len(list((tmp_path / "maps").glob("*/*.png"))) == count
        before = len(made.kinds)
        assert library.map("canny", noise(0), resolution=64).was_cached
        assert not library.map("canny", noise(1), resolution=64).was_cached
        assert len(made.kinds) == before + 1
    with opened(tmp_path / "none", maps_gb=0) as library:
        assert not library.map("canny", noise(0), resolution=64).was_cached
        assert not library.map("canny", noise(0), resolution=64).was_cached
        assert library.status().maps == (0, 0)


def test_a_map_that_cannot_be_kept_is_there_all_the_same(
    tmp_path: Path, picture: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "maps").mkdir()
    for start in range(256):  # files where folders should come
        (tmp_path / "maps" / f"{start:02x}").touch()
    with opened(tmp_path) as library:
        assert library.map("canny", picture).picture.size
        assert not library.map("canny", picture).was_cached
        assert library.status().maps == (0, 0)
    assert "a canny map could not be kept as " in caplog.text


def test_a_map_that_cannot_be_locked_is_there_all_the_same(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "maps").touch()
    with opened(tmp_path) as library:
        assert library.map("canny", picture).picture.size


def test_a_library_of_the_second_format_goes_on(tmp_path: Path, picture: Path) -> None:
    kept = Path(__file__).parents[1] / "formats" / "2"
    (tmp_path / "maps").mkdir()
    shutil.copy(kept / "library.db", tmp_path)
    shutil.copytree(kept / "vectors", tmp_path / "vectors")
    (tmp_path / "maps" / "3-canny.png").touch()
    with opened(tmp_path) as library:
        assert not (tmp_path / "maps" / "3-canny.png").exists()
        library.map("canny", picture)
        assert library.map("canny", picture).was_cached


# -- DT first ---------------------------------------------------------------------------------------------


def png(colour: tuple[int, int, int], size: tuple[int, int] = (80, 60)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


def test_dts_own_map_comes_first_and_is_kept_for_when_dt_is_away(
    tmp_path: Path, stranger: Stranger, mapped: dict[str, str], made: Count
) -> None:
    with opened(tmp_path / "home", stranger.url, path_map=mapped) as library:
        of_dt(library, tmp_path)
        assert not library.map("canny", image_id=3).was_cached
        stored = {"image_base64": base64.b64encode(png((9, 8, 7))).decode(), "was_cached": True, "keypoints": {"a": 1}}
        stranger.answers["/api/images/3/controlnet/canny"] = (200, stored)
        found = library.map("canny", image_id=3)
        assert (found.was_cached, found.picture.getpixel((0, 0)), found.keypoints) == (True, (9, 8, 7), {"a": 1})
        assert not library.map("canny", image_id=3, low=1).was_cached  # of which DT has none
    with opened(tmp_path / "home", path_map=mapped) as library:
        found = library.map("canny", image_id=3)
        assert (found.was_cached, found.picture.getpixel((0, 0)), found.keypoints) == (True, (9, 8, 7), {"a": 1})
    assert made.kinds == ["canny"] * 2


def test_dts_map_may_be_a_path_and_its_picture_need_not_be_there(
    tmp_path: Path, stranger: Stranger, mapped: dict[str, str]
) -> None:
    (tmp_path / "map.png").write_bytes(png((1, 2, 3)))
    stranger.answers["/api/images/3/controlnet/depth_zoe"] = (200, {"path": "D:\\Bilder\\map.png"})
    with opened(tmp_path / "home", stranger.url, path_map=mapped) as library:
        of_dt(library, tmp_path).unlink()
        assert library.map("depth_zoe", image_id=3).picture.getpixel((0, 0)) == (1, 2, 3)
    with opened(tmp_path / "home") as library:
        assert library.map("depth_zoe", image_id=3).was_cached


@pytest.mark.parametrize(
    "answer",
    [
        (200, {"image_base64": "no base64 at all!"}),
        (200, {"image_base64": base64.b64encode(b"no picture").decode()}),
        (200, {"path": "D:\\Bilder\\gone.png"}),
        (200, {"path": "\\\\stranger\\share\\map.png"}),
        (200, {}),
        (500, {"detail": "broken"}),
        (501, {"code": "not_offered", "detail": "later"}),
        (404, {"code": "unknown_image", "detail": "DT has no image 3"}),
        (503, {"detail": "busy"}),
        *[
            (422, {"code": code, "detail": "no"})
            for code in ("bad_input", "out_of_memory", "weights", "store", "error")
        ],
        (200, {"image_base64": base64.b64encode(PIXEL).decode(), "keypoints": {"a": "\ud800"}}),
    ],
)
def test_where_dts_map_is_no_use_one_is_made(
    tmp_path: Path, stranger: Stranger, mapped: dict[str, str], answer: Any
) -> None:
    stranger.answers["/api/images/3/controlnet/canny"] = answer
    with opened(tmp_path / "home", stranger.url, path_map=mapped, timeout=5) as library:
        of_dt(library, tmp_path)
        assert library.map("canny", image_id=3).picture.size == (80, 60)
        assert library.map("canny", image_id=3).was_cached
        assert not any(asked[0] == "PUT" for asked in stranger.asked)  # it offers no place for maps


def test_what_is_made_is_handed_to_dt_and_found_by_everybody(tmp_path: Path, drawn: Drawn, made: Count) -> None:
    with served(drawn.address) as url:
        with opened(tmp_path / "one", url) as library:
            first = library.map("canny", image_id=12)
            assert not first.was_cached
        with opened(tmp_path / "two", url) as library:
            found = library.map("canny", image_id=12)
            assert found.was_cached
            assert found.picture.tobytes() == first.picture.tobytes()
            library.map("canny", image_id=12, low=3)  # of which DT keeps none
    with opened(tmp_path / "two") as library, pytest.raises(UnknownImage):
        library.map("canny", image_id=4711)
    assert made.kinds == ["canny"] * 2


def test_a_map_kept_before_is_handed_over_when_dt_is_back(tmp_path: Path, drawn: Drawn, made: Count) -> None:
    with served(drawn.address) as url:
        with opened(tmp_path, url) as library:
            library.sync()
        with opened(tmp_path) as library:
            library.map("canny", image_id=13)
        with opened(tmp_path, url) as library:
            assert library.map("canny", image_id=13).was_cached
            assert library.catalog.control_map(13, "canny").data
    assert made.kinds == ["canny"]


@pytest.mark.parametrize("answer", [(422, {"code": "bad_input", "detail": "no"}), (500, {}), (503, {}), (200, b"x")])
def test_a_dt_that_does_not_take_a_map_breaks_nothing(
    tmp_path: Path, stranger: Stranger, mapped: dict[str, str], answer: Any
) -> None:
    stranger.answers["/api/health"] = (200, {"status": "ok", "capabilities": ["maps"]})
    stranger.answers["/api/images/3/controlnet/canny"] = [(404, {"code": "map_missing", "detail": "none"}), answer]
    with opened(tmp_path / "home", stranger.url, path_map=mapped, timeout=5) as library:
        of_dt(library, tmp_path)
        assert not library.map("canny", image_id=3).was_cached
        assert library.status().maps[0] == 1
        assert "PUT" in [asked[0] for asked in stranger.asked]
        stranger.answers["/api/images/3/controlnet/canny"] = (404, {"code": "map_missing", "detail": "none"})
        assert library.map("canny", image_id=3).was_cached
        library.map("canny", png((1, 2, 3)))


def test_a_file_that_dt_names_as_its_map_is_never_sent_to_it(
    tmp_path: Path, stranger: Stranger, mapped: dict[str, str]
) -> None:
    (tmp_path / "private.png").write_bytes(png((1, 2, 3)))
    stranger.answers["/api/health"] = (200, {"status": "ok", "capabilities": ["maps"]})
    stranger.answers["/api/images/3/controlnet/canny"] = (200, {"path": "D:\\Bilder\\private.png"})
    with opened(tmp_path / "home", stranger.url, path_map=mapped) as library:
        of_dt(library, tmp_path)
        assert library.map("canny", image_id=3).was_cached
        stranger.answers["/api/images/3/controlnet/canny"] = (404, {"code": "map_missing", "detail": "none"})
        assert library.map("canny", image_id=3).was_cached
        library.status()
    assert "PUT" not in [asked[0] for asked in stranger.asked]


def test_a_dt_that_is_away_is_not_asked_each_time(tmp_path: Path, stranger: Stranger, mapped: dict[str, str]) -> None:
    call = "/api/images/3/controlnet/canny"
    stranger.answers[call] = (503, {"detail": "the database is away"})
    with opened(tmp_path / "home", stranger.url, path_map=mapped) as library:
        of_dt(library, tmp_path)
        library.map("canny", image_id=3)
        asked = len(stranger.asked)
        library.map("canny", image_id=3)
        with pytest.raises(MapMissing, match=r"none is to be made; and DT .* the database is away"):
            library.map("softedge", image_id=3, make=False)
        assert len(stranger.asked) == asked


def test_a_kept_map_is_found_when_its_picture_is_out_of_reach(tmp_path: Path, mapped: dict[str, str]) -> None:
    with opened(tmp_path / "home", path_map=mapped) as library:
        file = of_dt(library, tmp_path)
        first = library.map("canny", image_id=3)
        file.unlink()
        again = library.map("canny", image_id=3)
        assert again.was_cached
        assert again.picture.tobytes() == first.picture.tobytes()
        with pytest.raises(PictureMissing):
            library.map("canny", image_id=3, low=1)


def test_a_map_is_made_anew_when_told_so(tmp_path: Path, drawn: Drawn, made: Count) -> None:
    with served(drawn.address) as url, opened(tmp_path, url) as library:
        library.map("canny", image_id=14)
        library.status()  # by then it is handed over
        library.catalog.put_map(14, "canny", StoredMap(png((4, 4, 4))))
        assert library.map("canny", image_id=14).picture.getpixel((0, 0)) == (4, 4, 4)
        again = library.map("canny", image_id=14, anew=True)
        assert not again.was_cached
        library.status()
        assert library.map("canny", image_id=14).picture.tobytes() == again.picture.tobytes()  # DT has it now
    assert made.kinds == ["canny"] * 2


def test_a_picture_that_changed_has_no_map(
    tmp_path: Path, postgres: str, schema: str, made: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    drawings = database.draw_library(tmp_path / "pictures", 25, seed=3)
    with psycopg.connect(postgres) as connection:
        database.create_tables(connection, schema, {})
        database.fill(connection, drawings, {})
    with served(f"{postgres}&schema={schema}") as url, opened(tmp_path / "home", url) as library:
        library.map("canny", image_id=5)
        library.status()  # by then DT has it
        shutil.copy(drawings[7].path, drawings[4].path)
        again = library.map("canny", image_id=5)
        assert not again.was_cached
        assert again.picture.size == drawings[7].size
        keep = MapCache.keep

        def changed_meanwhile(*given: Any) -> None:
            keep(*given)
            shutil.copy(drawings[8].path, drawings[5].path)

        monkeypatch.setattr(MapCache, "keep", changed_meanwhile)
        library.map("canny", image_id=6)
        library.status()
        with pytest.raises(MapMissing):
            library.catalog.control_map(6, "canny")
    assert made.kinds == ["canny"] * 3


# -- what may be asked -----------------------------------------------------------------------------------


def test_a_map_may_be_asked_for_without_being_made(tmp_path: Path, picture: Path, made: Count) -> None:
    with opened(tmp_path) as library:
        with pytest.raises(MapMissing, match=r"no canny map of .* is kept"):
            library.map("canny", picture, make=False)
        library.map("canny", picture)
        assert library.map("canny", picture, make=False).was_cached


def test_bad_input_is_told_and_nothing_is_kept(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with opened(tmp_path) as library:
        with pytest.raises(
            BadInput, match=r"'depth' is no type of ControlNet map; there are: openpose, .* segmentation"
        ):
            library.map("depth", picture)
        with pytest.raises(BadInput, match="give one of image and image_id, not none"):
            library.map("canny")
        with pytest.raises(BadInput, match="not image and image_id"):
            library.map("canny", picture, image_id=3)
        with pytest.raises(BadPicture, match=r"text\.png: not a picture"):
            library.map("canny", tmp_path / "text.png")
        with pytest.raises(BadPicture, match=r"gone\.png: No such file"):
            library.map("canny", tmp_path / "gone.png")
        with pytest.raises(BadInput, match="not of a batch of 2"):
            library.map("canny", np.zeros((2, 8, 8, 3), np.uint8))
        assert library.status().maps == (0, 0)


# -- many ----------------------------------------------------------------------------------------------


def test_maps_of_many_are_made_once_and_what_fails_is_told(
    tmp_path: Path, drawn: Drawn, made: Count, empty_hub: Path
) -> None:
    cats = [i + 1 for i, d in enumerate(drawn.drawings) if d.scene.subject == "cat"]
    heard: list[tuple[str, int, int]] = []
    with opened(tmp_path, drawn.address) as library:
        library.sync()
        done = library.make_maps('"cat"', ["lineart", "canny"], progress=lambda *told: heard.append(told))
        assert (done.made, done.present) == (len(cats), 0)
        ((image_id, kind, reason),) = done.failed  # said once, not for every picture
        assert (image_id, kind) == (None, "lineart")
        assert "sk_model.pth (17 MB)" in reason
        assert heard[-1] == ("map.canny", len(cats), len(cats))
        again = library.make_maps('"cat"', ["canny"])
        assert (again.made, again.present, again.failed) == (0, len(cats), ())
        assert library.map("canny", image_id=cats[0]).was_cached
        with pytest.raises(BadInput, match="no type of"):
            library.make_maps("", ["canny", "smell"])
    assert made.kinds.count("canny") == len(cats)


def test_making_many_goes_on_where_it_was_stopped(tmp_path: Path, drawn: Drawn, made: Count) -> None:
    class Stopped(Exception):
        pass

    def stop(kind: str, done: int, total: int) -> None:
        if done == 7:
            raise Stopped

    with opened(tmp_path, drawn.address) as library:
        library.sync()
        with pytest.raises(Stopped):
            library.make_maps("", ["canny"], progress=stop)
        done = library.make_maps("", ["canny"])
    assert (done.made, done.present) == (93, 7)
    assert len(made.kinds) == 100


def test_a_broken_picture_holds_up_nothing(tmp_path: Path, mapped: dict[str, str]) -> None:
    with opened(tmp_path / "home", path_map=mapped) as library:
        mirror(library, "images", image_batch(np.arange(1, 4)))
        of_dt(library, tmp_path, 1)
        (tmp_path / "2.png").write_bytes(b"broken")
        done = library.make_maps("", ["canny"])
    assert (done.made, [image_id for image_id, _, _ in done.failed]) == (1, [2, 3])
    assert "image 2: not a picture" in done.failed[0][2]
    assert done.to_json()["failed"][1]["id"] == 3
