"""Making maps: every type through the real loading code, size, bytes, what comes in, and what cannot be done."""

from __future__ import annotations

import functools
import hashlib
import io
import logging
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from luna_dt.demo.drawing import draw, random_scene
from luna_dt.errors import BadInput, MissingExtra, OutOfMemory, WeightsError
from luna_dt.memory import Memory
from luna_dt.pixels import read_pictures
from luna_dt.preproc import Detectors, Made
from luna_dt.preproc.detectors import OPENMP
from luna_dt.preproc.frame import MAX_WORKED, Frame
from luna_dt.preproc.map_types import TYPES
from tests.conftest import Drawn
from tests.loopback import Handler, Loopback
from tests.pack import ROOT
from tests.weights import CELLS, figure

Pixels = npt.NDArray[np.uint8]
SIZES = ((1000, 600), (832, 1216), (640, 480), (3, 900), (1, 1))
SMALL = 128  # a resolution at which the networks are quick


def sha256(file: Path) -> str:
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache
def _sha256(file: Path, _size: int, _mtime: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def detectors_in(folder: Path) -> Detectors:
    return Detectors("cpu", [folder], Memory(), sha256)


@pytest.fixture(scope="module")
def detectors(weights: Path) -> Detectors:
    return Detectors("cpu", [weights], Memory(residency=_few_blocks), sha256)


def _few_blocks(module: torch.nn.Module) -> None:
    """Of Zoe's 24 blocks leaves the four whose answers are used: all of them take minutes for a long picture.

    ``test_other_packages_are_left_as_they_are`` runs them all.
    """
    for each in module.modules():
        blocks = getattr(each, "blocks", ())
        if len(blocks) == 24:
            for number in {*range(24)} - {5, 11, 17, 23}:
                blocks[number].forward = lambda x, *_, **__: x


@functools.lru_cache(maxsize=32)
def drawing(width: int, height: int, seed: int = 5) -> Image.Image:
    drawn = draw(random_scene(random.Random(seed)), (max(width, 64), max(height, 64)))
    return drawn.convert("RGB").crop((0, 0, width, height))


def made(detectors: Detectors, kind: str, picture: Image.Image, **parameters: Any) -> Made:
    return detectors.make(TYPES[kind], picture, TYPES[kind].parameters(**parameters))


def pixels(detectors: Detectors, kind: str, picture: Image.Image, **parameters: Any) -> Pixels:
    return np.asarray(made(detectors, kind, picture, **parameters).picture.convert("RGB"))


# -- every type ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_a_map_has_the_pictures_size_and_the_same_bytes_each_time(detectors: Detectors, kind: str) -> None:
    for size in SIZES:
        found = made(detectors, kind, drawing(*size), resolution=SMALL)
        assert found.picture.size == size
        assert (found.keypoints is not None) == TYPES[kind].has_keypoints
        if size == SIZES[0]:
            first = found.picture
    again = pixels(detectors, kind, drawing(*SIZES[0]), resolution=SMALL)
    np.testing.assert_array_equal(again, np.asarray(first.convert("RGB")))
    if not TYPES[kind].has_keypoints:  # a drawing has no person in it
        assert len(np.unique(again)) > 1


def test_the_catalogue_is_whole() -> None:
    assert len(TYPES) == 13
    for name, kind in TYPES.items():
        assert name == kind.name
        assert kind.licence
        assert kind.node
        assert bool(kind.weights) == (name != "canny")
        assert all(each.megabytes for each in kind.weights)


def test_types_that_share_a_network_differ(detectors: Detectors) -> None:
    picture = drawing(320, 256)
    assert not np.array_equal(
        pixels(detectors, "softedge", picture, resolution=SMALL),
        pixels(detectors, "scribble", picture, resolution=SMALL),
    )


def test_segmentation_paints_only_the_palettes_colours(detectors: Detectors) -> None:
    """Also where it is made smaller than the picture: no colour between two may appear."""
    painted = pixels(detectors, "segmentation", drawing(500, 300), resolution=SMALL)
    from luna_dt.preproc.detectors import part

    palette = {tuple(colour) for colour in part("util").ade_palette()}
    assert {tuple(colour) for colour in painted.reshape(-1, 3).tolist()} <= palette
    assert len(palette) == 149  # two of the 150 classes share one


# -- canny, beside OpenCV called directly ---------------------------------------------------------------


def test_canny_is_opencvs_own(detectors: Detectors) -> None:
    picture = drawing(512, 768)
    for low, high in ((100, 200), (0, 0), (30, 255)):
        edges = cv2.Canny(np.asarray(picture), low, high)
        found = pixels(detectors, "canny", picture, low=low, high=high)
        np.testing.assert_array_equal(found, np.repeat(edges[:, :, None], 3, axis=2))
        np.testing.assert_array_equal(
            found, pixels(detectors, "canny", picture, low=low, high=high, resolution="source")
        )
    assert found.any()


def test_a_larger_picture_is_shrunk_padded_and_brought_back(detectors: Detectors) -> None:
    picture = drawing(1000, 600)
    small = cv2.resize(np.asarray(picture), (853, 512), interpolation=cv2.INTER_AREA)
    padded = np.pad(small, [(0, 0), (0, 43), (0, 0)], mode="edge")
    edges = cv2.Canny(padded, 100, 200)[:, :853]
    expected = cv2.resize(edges, (1000, 600), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(pixels(detectors, "canny", picture)[:, :, 0], expected)


def test_a_smaller_picture_is_enlarged_and_brought_back(detectors: Detectors) -> None:
    picture = drawing(300, 256)
    large = cv2.resize(np.asarray(picture), (600, 512), interpolation=cv2.INTER_CUBIC)
    edges = cv2.Canny(np.pad(large, [(0, 0), (0, 40), (0, 0)], mode="edge"), 100, 200)[:, :600]
    expected = cv2.resize(edges, (300, 256), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(pixels(detectors, "canny", picture)[:, :, 0], expected)


def test_a_map_lies_on_its_picture(detectors: Detectors) -> None:
    """A bright square's edges are where the square is, whatever the picture's shape."""
    for size in ((1000, 600), (640, 480), (300, 700)):
        source = np.zeros((size[1], size[0], 3), np.uint8)
        source[100:200, 120:260] = 255
        found = np.argwhere(pixels(detectors, "canny", Image.fromarray(source))[:, :, 0] > 128)
        np.testing.assert_allclose([*found.min(axis=0), *found.max(axis=0)], [100, 120, 200, 260], atol=4)


# -- the working picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [*SIZES, (900, 3), (4000, 10), (6000, 512), (64, 64), (513, 511), (1, 200_000), (2, 20_000), (4100, 4100)]
)
@pytest.mark.parametrize("resolution", [64, 512, 4096, "source"])
@pytest.mark.slow
def test_the_working_picture_is_bounded_and_padded(size: tuple[int, int], resolution: Any) -> None:
    source = np.asarray(drawing(*size))
    frame = Frame.of(source, resolution)
    height, width = frame.pixels.shape[:2]
    assert height % 64 == width % 64 == 0
    assert max(height, width) <= 4 * min(height, width) + 4 * 64
    assert height * width <= MAX_WORKED * 1.1
    if resolution == "source" and max(size) <= 6000 and size != (4100, 4100):
        assert (frame.width, frame.height) == size
        np.testing.assert_array_equal(frame.pixels[: size[1], : size[0]], source)
        np.testing.assert_array_equal(frame.unframed(frame.pixels, "smooth"), source)
    elif max(size) <= 4 * min(size) and resolution not in ("source", 4096):
        assert min(frame.width, frame.height) == resolution
    np.testing.assert_array_equal(frame.pixels[:, -1], frame.pixels[:, frame.width - 1])
    assert frame.unframed(frame.pixels, "lines").shape == source.shape


@pytest.mark.parametrize(
    "parameters",
    [{"resolution": 63}, {"resolution": 4097}, {"resolution": "large"}, {"low": 201}, {"high": 256}, {"low": -1}],
)
def test_parameters_out_of_range_are_told(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="not"):
        TYPES["canny"].parameters(**parameters)


# -- pictures that controlnet_aux takes wrongly ---------------------------------------------------------------


def _grey() -> Image.Image:
    return drawing(200, 160).convert("L")


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def _animation() -> bytes:
    frames = [drawing(200, 160, seed).convert("P") for seed in (5, 6, 7)]
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return _encoded(drawing(200, 160).transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def _with_alpha() -> Image.Image:
    picture = drawing(200, 160).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


MODES: dict[str, tuple[Callable[[], Any], Callable[[], Image.Image]]] = {
    "palette": (lambda: drawing(200, 160).quantize(8), lambda: drawing(200, 160).quantize(8).convert("RGB")),
    "1 bit": (lambda: _grey().convert("1"), lambda: _grey().convert("1").convert("RGB")),
    "grey": (_grey, lambda: _grey().convert("RGB")),
    "grey and alpha": (lambda: _grey().convert("LA"), lambda: _grey().convert("RGB")),
    "alpha": (_with_alpha, lambda: drawing(200, 160)),
    "CMYK": (lambda: drawing(200, 160).convert("CMYK"), lambda: drawing(200, 160).convert("CMYK").convert("RGB")),
    "16 bits": (
        lambda: Image.fromarray(np.asarray(_grey()).astype(np.uint16) * 257),
        lambda: _grey().convert("RGB"),
    ),
    "16 bits, an array": (lambda: np.asarray(drawing(200, 160)).astype(np.uint16) * 257, lambda: drawing(200, 160)),
    "floats, a tensor": (
        lambda: torch.from_numpy(np.asarray(drawing(200, 160)) / np.float32(255))[None],
        lambda: drawing(200, 160),
    ),
    "an animation": (_animation, lambda: drawing(200, 160).convert("P").convert("RGB")),
    "turned by EXIF": (_turned, lambda: drawing(200, 160)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["canny", "softedge"])
def test_every_mode_gives_the_map_of_its_rgb_picture(detectors: Detectors, mode: str, kind: str) -> None:
    given, rgb = (each() for each in MODES[mode])
    (picture,) = read_pictures(given)
    expected = pixels(detectors, kind, rgb, resolution=SMALL)
    np.testing.assert_array_equal(pixels(detectors, kind, picture, resolution=SMALL), expected)
    assert len(np.unique(expected)) > 1


# -- poses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [name for name in TYPES if name.startswith("openpose")])
@pytest.mark.parametrize("wider", [0, 300])
def test_a_figure_is_found_where_it_is(detectors: Detectors, kind: str, wider: int) -> None:
    side = 736
    seen, points = figure(side)
    source = Image.new("RGB", (side + wider, side))
    source.paste(seen)
    found = made(detectors, kind, source)
    assert found.keypoints is not None
    assert {key: found.keypoints[key] for key in ("version", "canvas_width", "canvas_height")} == {
        "version": 1.3, "canvas_width": side + wider, "canvas_height": side,
    }  # fmt: skip
    (person,) = found.keypoints["people"]
    body = np.array(person["pose_keypoints_2d"]).reshape(-1, 3)
    np.testing.assert_allclose(body[:, :2], points, atol=side / 100)
    np.testing.assert_array_equal(body[:, 2], 1)
    counts = {part: len(person[f"{part}_keypoints_2d"]) // 3 for part in ("face", "hand_left", "hand_right")}
    hands, face = kind in ("openpose_hand", "openpose_full"), kind in ("openpose_face", "openpose_full")
    assert counts == {"face": 70 * face, "hand_left": 21 * hands, "hand_right": 21 * hands}
    if hands:  # on the side of its own arm
        left, right = (np.array(person[f"hand_{side}_keypoints_2d"]).reshape(-1, 3)[:, 0] for side in ("left", "right"))
        assert left[left > 0].min() > right.max()
    drawn = np.asarray(found.picture)
    for x, y in points[:14]:
        assert drawn[int(y), int(x)].any(), "a keypoint is not drawn"
    assert not drawn[:, side + 1 :].any()
    if hands or face:  # more is drawn than the body
        assert np.count_nonzero(drawn) > np.count_nonzero(pixels(detectors, "openpose", source))
    if face:  # within the square around the nose that the eyes and ears span
        reach = 3 * side / CELLS * 1.5 + 8
        seen_points = np.array(person["face_keypoints_2d"]).reshape(-1, 3)
        inside = np.abs(seen_points[seen_points[:, 2] > 0, :2] - points[0]) < reach
        assert len(inside) > 35
        assert inside.all()


def test_a_picture_without_people_has_none(detectors: Detectors) -> None:
    found = made(detectors, "openpose_full", drawing(256, 256))
    assert found.keypoints is not None
    assert found.keypoints["people"] == []
    assert not np.asarray(found.picture).any()


# -- several at once, and what stays in memory ------------------------------------------------------------------


def test_eight_threads_get_the_same_bytes(detectors: Detectors) -> None:
    kinds = ["canny", "softedge", "depth_midas", "lineart", "normal_bae", "scribble", "lineart_anime", "depth_midas"]
    jobs = [(kind, drawing(90 + 37 * n, 200 - 11 * n, n)) for n, kind in enumerate(kinds)]
    alone = [pixels(detectors, kind, picture, resolution=SMALL) for kind, picture in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: pixels(detectors, *job, resolution=SMALL), jobs * 2))
    for expected, found in zip(alone * 2, together, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_libraries_in_one_process_do_not_disturb_each_other(weights: Path) -> None:
    """As inside ComfyUI, where each address of DT has one; MiDaS's activations and what loading does are the process's."""
    out = sys.stdout
    pictures = [drawing(100 + 30 * n, 90, n) for n in range(6)]
    kinds = ["depth_midas", "normal_bae", "depth_midas", "lineart", "depth_midas", "depth_midas"]

    def all_by(detectors: Detectors) -> list[Pixels]:
        return [pixels(detectors, kind, picture, resolution=64) for kind, picture in zip(kinds, pictures, strict=True)]

    alone = all_by(detectors_in(weights))
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(all_by, (detectors_in(weights), detectors_in(weights))):
            for expected, picture in zip(alone, found, strict=True):
                np.testing.assert_array_equal(picture, expected)
    assert sys.stdout is out


def test_one_detector_is_in_memory_at_a_time_and_leaves_when_told(weights: Path) -> None:
    modules: list[Any] = []
    memory = Memory(residency=lambda module: modules.append(weakref.ref(module)))
    detectors = Detectors("cpu", [weights], memory, sha256)
    first = pixels(detectors, "softedge", drawing(90, 70), resolution=SMALL)
    pixels(detectors, "scribble", drawing(90, 70), resolution=SMALL)
    softedge, scribble = modules
    assert softedge() is scribble() is not None, "softedge and scribble are one network"
    pixels(detectors, "lineart", drawing(90, 70), resolution=SMALL)
    lineart = modules[-1]
    assert softedge() is None
    assert lineart() is not None
    assert memory.release()
    assert lineart() is None
    assert not memory.release()
    np.testing.assert_array_equal(pixels(detectors, "softedge", drawing(90, 70), resolution=SMALL), first)


def test_the_host_brings_a_detector_where_it_is_to_run(weights: Path) -> None:
    asked: list[torch.nn.Module] = []
    memory = Memory(residency=asked.append)
    pixels(Detectors("cpu", [weights], memory, sha256), "softedge", drawing(90, 70), resolution=SMALL)
    (module,) = asked
    assert sum(p.numel() for p in module.parameters()) > 14_000_000


def test_where_memory_runs_out_others_leave_and_then_it_is_told(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import luna_dt.preproc.detectors as module

    memory = Memory()
    another = memory.get("another model", object)
    failures = [torch.OutOfMemoryError("CUDA out of memory")]
    load = module.load

    def failing(*arguments: Any) -> Any:
        detector = load(*arguments)

        def run(*given: Any, **named: Any) -> Any:
            if failures:
                raise failures.pop()
            return detector.run(*given, **named)

        return module.Detector(detector.module, run)

    monkeypatch.setattr(module, "load", failing)
    detectors = Detectors("cpu", [weights], memory, sha256)
    found = pixels(detectors, "softedge", drawing(90, 70), resolution=SMALL)
    assert memory.get("another model", object) is not another
    failures += [torch.OutOfMemoryError("CUDA out of memory")] * 2
    with pytest.raises(OutOfMemory, match=r"no memory to make a softedge map of .* lower resolution"):
        pixels(detectors, "softedge", drawing(90, 70), resolution=SMALL)
    failures.clear()
    np.testing.assert_array_equal(pixels(detectors, "softedge", drawing(90, 70), resolution=SMALL), found)


# -- nothing else in the process notices ----------------------------------------------------------------------------


def test_other_packages_are_left_as_they_are(weights: Path, tmp_path: Path) -> None:
    """Beside a mediapipe without ``solutions`` (0.10.30 and later), and other packs' ``midas`` and ``geffnet``."""
    for name in ("mediapipe", "midas", "geffnet"):
        (tmp_path / f"{name}.py").write_text("whose = 'theirs'\n", encoding="utf-8")
    code = f"""
import os, sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
import mediapipe, midas, geffnet, timm
before = timm.create_model("tiny_vit_5m_224")
from pathlib import Path
from PIL import Image
from tests.unit.test_preproc import detectors_in, made, TYPES
filters = list(warnings.filters)
for kind in ("depth_midas", "depth_zoe", "normal_bae", "openpose_hand", "softedge"):
    made(detectors_in(Path({str(weights)!r})), kind, Image.new("RGB", (64, 64), "red"), resolution=64)
assert warnings.filters == filters
assert midas.whose == geffnet.whose == sys.modules["midas"].whose == sys.modules["geffnet"].whose == "theirs"
assert not any(name.startswith(("midas.", "geffnet.")) for name in sys.modules)
assert "controlnet_aux" not in sys.modules
assert {OPENMP!r} not in os.environ
assert type(timm.create_model("tiny_vit_5m_224")) is type(before)
"""
    environment = {name: value for name, value in os.environ.items() if name != OPENMP}  # scikit-learn sets it, too
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


# -- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["as the pack keeps them", "in the repository's folder", "side by side"])
def test_weights_are_found_in_every_folder_people_have(weights: Path, tmp_path: Path, form: str) -> None:
    where = {
        "as the pack keeps them": "lllyasviel/Annotators",
        "in the repository's folder": "Annotators",
        "side by side": ".",
    }[form]
    (tmp_path / where).mkdir(parents=True, exist_ok=True)
    shutil.copy(weights / "lllyasviel/Annotators/sk_model.pth", tmp_path / where)
    detectors = Detectors("cpu", [tmp_path / "none", tmp_path], Memory(), sha256)
    assert detectors.identity(TYPES["lineart"])
    assert made(detectors, "lineart", drawing(90, 70), resolution=SMALL).picture.size == (90, 70)


def test_what_is_missing_is_named_with_its_size_and_place(empty_hub: Path, tmp_path: Path) -> None:
    detectors = detectors_in(tmp_path / "models")
    assert detectors.identity(TYPES["openpose_hand"]) is None
    with pytest.raises(WeightsError) as told:
        made(detectors, "openpose_hand", drawing(90, 70))
    for words in (
        "openpose_hand needs body_pose_model.pth (209 MB) and hand_pose_model.pth (147 MB)",
        "lllyasviel/Annotators (CMU OpenPose licence: not for commercial use)",
        "HF_HUB_OFFLINE is set",
        f"put it into {tmp_path / 'models' / 'lllyasviel/Annotators'}",
        "hf download lllyasviel/Annotators body_pose_model.pth hand_pose_model.pth",
    ):
        assert words in str(told.value)
    assert detectors.identity(TYPES["canny"])


@pytest.mark.parametrize("damage", ["truncated", "another's", "code"])
def test_weights_that_are_not_the_right_ones_are_named(weights: Path, tmp_path: Path, damage: str) -> None:
    right = weights / "lllyasviel/Annotators/sk_model.pth"
    file = tmp_path / "sk_model.pth"
    if damage == "truncated":
        file.write_bytes(right.read_bytes()[:100_000])
    elif damage == "another's":
        shutil.copy(weights / "lllyasviel/Annotators/ControlNetHED.pth", file)
    else:
        torch.save({"x": _Code(tmp_path / "ran")}, file)
    reason = "not a file of tensors only" if damage == "code" else ""
    with pytest.raises(WeightsError, match=rf"sk_model\.pth cannot be used as lineart's weights \({reason}.*delete it"):
        made(detectors_in(tmp_path), "lineart", drawing(90, 70))
    assert not (tmp_path / "ran").exists()


class _Code:
    """What runs code when it is unpickled by one who is not careful."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._file,)


@pytest.mark.models
def test_zoe_does_not_go_on_with_tensors_that_are_missing(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "ZoeD_M12_N.pt")
    (tmp_path / "SHA256SUMS").write_text(f"{sha256(tmp_path / 'ZoeD_M12_N.pt')}  ZoeD_M12_N.pt\n", encoding="utf-8")
    with pytest.raises(WeightsError, match="of its tensors are missing"):
        made(detectors_in(tmp_path), "depth_zoe", drawing(90, 70))


def test_a_damaged_download_is_got_again_once_it_is_deleted(hub: Hub, tmp_path: Path, weights: Path) -> None:
    detectors = detectors_in(tmp_path / "models")
    hub.damaged = True
    with pytest.raises(WeightsError, match="delete it and get it again") as told:
        made(detectors, "lineart", drawing(90, 70), resolution=SMALL)
    hub.damaged = False
    Path(str(told.value).partition(" cannot")[0]).unlink()
    assert made(detectors, "lineart", drawing(90, 70), resolution=SMALL).picture.size == (90, 70)


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:{port}", "127.0.0.1:{port}"])
def test_a_proxy_is_asked_in_the_hubs_place_unless_it_is_passed_by(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    from luna_dt.hub import reach

    port = hub.url.rpartition(":")[2]
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    with pytest.raises(ConnectionError, match=r"hub\.invalid is not to be reached"):
        reach()
    monkeypatch.setenv("http_proxy", proxy.format(port=port))
    reach()
    monkeypatch.setenv("no_proxy", "hub.invalid")
    with pytest.raises(ConnectionError, match=r"hub\.invalid is not to be reached"):
        reach()


def test_weights_with_a_known_hash_must_have_it(weights: Path, tmp_path: Path) -> None:
    shutil.copy(weights / "lllyasviel/Annotators/ControlNetHED.pth", tmp_path)
    with pytest.raises(WeightsError, match=r"is not the file that was published as ControlNetHED\.pth .* delete it"):
        made(detectors_in(tmp_path), "softedge", drawing(90, 70))
    digest = sha256(tmp_path / "ControlNetHED.pth")
    (tmp_path / "SHA256SUMS").write_text(f"{digest} *ControlNetHED.pth\n", encoding="utf-8")
    assert made(detectors_in(tmp_path), "softedge", drawing(90, 70)).picture.size == (90, 70)


class Hub(Loopback):
    """A hub that has one repository's files, as far as its client asks."""

    def __init__(self, folder: Path, repository: str) -> None:
        self.asked: list[str] = []
        self.damaged = False
        hub = self

        class Answering(Handler):
            def answer(self) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                start = f"/{repository}/resolve/main/"
                file = folder / self.path.removeprefix(start).partition("?")[0]
                found = self.path.startswith(start) and file.is_file()
                self.send_response(200 if found else 404)
                self.send_header("content-length", str(file.stat().st_size if found else 0))
                self.send_header("etag", f'"{"a" * 40}"')
                self.send_header("x-repo-commit", "b" * 40)
                self.end_headers()
                if found and self.command == "GET":
                    content = file.read_bytes()
                    self.wfile.write(bytes(len(content)) if hub.damaged else content)

            do_GET = do_HEAD = answer  # noqa: N815

        super().__init__(Answering)


@pytest.fixture
def hub(weights: Path, empty_hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    opened = Hub(weights / "lllyasviel/Annotators", "lllyasviel/Annotators")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", opened.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", opened.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield opened
    opened.close()


def test_missing_weights_are_downloaded_once_and_their_size_said_before(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detectors = detectors_in(tmp_path / "models")
    with caplog.at_level(logging.WARNING, "luna_dt"):
        assert made(detectors, "lineart", drawing(90, 70), resolution=SMALL).picture.size == (90, 70)
    assert "downloading sk_model.pth of lllyasviel/Annotators (MIT): 9 MB" in caplog.text
    asked = len(hub.asked)
    made(detectors_in(tmp_path / "models"), "lineart", drawing(90, 70), resolution=SMALL)
    assert len(hub.asked) == asked


def test_a_hub_that_is_not_to_be_reached_is_not_waited_for(
    empty_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own client tries five times more, and sleeps for 23 s between."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    slept: list[float] = []
    here, sleep = threading.get_ident(), time.sleep  # other threads of this process may sleep
    monkeypatch.setattr(
        time, "sleep", lambda seconds: (slept.append if threading.get_ident() == here else sleep)(seconds)
    )
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1 is not to be reached"):
        made(detectors_in(tmp_path), "lineart", drawing(90, 70))
    assert slept == []


def test_what_is_not_installed_is_named_with_the_command(
    weights: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"OpenCV is not installed; run: .*install\.py"):
        made(detectors_in(weights), "canny", drawing(90, 70))
