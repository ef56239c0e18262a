"""controlnet_aux's detectors, each imported and loaded by itself; segmentation by transformers, canny by OpenCV.

controlnet_aux's own ``__init__`` is never run: it fails beside a recent mediapipe, takes 4 s and 770 MB, and
replaces models of timm for the whole process.  Its modules are imported under a package of a private name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingExtra, WeightsError
from ..memory import is_out_of_memory
from .frame import Pixels

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PACKAGE = "luna_dt_controlnet_aux"
OPENMP = "KMP_DUPLICATE_LIB_OK"  # which controlnet_aux sets for whoever runs it
#: Top-level modules that detectors bring with them and other packs may have, too, as something else.
STRANGERS = ("midas", "geffnet")
FACE = 70  # points of a face in OpenPose's JSON; the network has one more, for what is no face
#: ImageNet's pixel mean and standard deviation, as the segmentation network was trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Makes a map of a working picture: uint8[H, W, 3] of the same size, and for a pose each person's keypoints.
Run = Callable[..., tuple[Pixels, "list[Person] | None"]]
#: A person's body, face, left and right hand: points (x, y, confidence), of 1, or None; nothing for a part not looked for.
Person = Mapping[str, "Sequence[tuple[float, float, float] | None]"]


@dataclass(frozen=True)
class Detector:
    """A detector in memory: the ``module`` (torch) that is moved to where it runs, and how it is run."""

    module: Any
    run: Run


def canny(pixels: Pixels, low: int, high: int) -> tuple[Pixels, None]:
    """The edges of uint8[H, W, 3], as uint8[H, W]."""
    import cv2

    return np.asarray(cv2.Canny(pixels, low, high), np.uint8), None


def load(detector: str, files: Sequence[Path]) -> Detector:
    """The detector of that name with its weights, on the CPU; raises WeightsError, MissingExtra."""
    try:
        for file in files:  # by torch's own rule, as controlnet_aux loads, code was run before torch 2.6
            _tensors(file)
        import torch

        # not as a host's inference tensors, which could not be moved outside of its inference
        with contained(), torch.inference_mode(False):
            found = _LOADERS[detector](*files)
            found.module.eval().requires_grad_(False)
            return found
    except ImportError as error:
        raise MissingExtra(f"{error.name or 'controlnet_aux'} (for {detector} maps)", "maps") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        named = " or ".join(str(file.resolve()) for file in files)  # in the hub's cache what is at the end of its link
        raise WeightsError(
            f"{named} cannot be used as {detector}'s weights ({reason}); the file may be damaged or another's: delete it "
            "and get it again"
        ) from error


def _tensors(file: Path) -> Any:
    """What is in a file of weights, mapped where that can be; raises ValueError if it is more than tensors."""
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(f"not a file of tensors only: {error}") from error


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """What a detector does to the whole process while it is imported and loaded is undone; for one thread at a time."""
    environment, others = os.environ.get(OPENMP), _taken_out()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _taken_out()
        sys.modules.update(others)
        os.environ.pop(OPENMP, None)
        if environment is not None:
            os.environ[OPENMP] = environment


def _taken_out() -> dict[str, types.ModuleType]:
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in STRANGERS}


def part(name: str) -> Any:
    """One of controlnet_aux's modules, without its package's ``__init__``."""
    if PACKAGE not in sys.modules:
        spec = importlib.util.find_spec("controlnet_aux")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("no controlnet_aux", name="controlnet_aux")
        package = types.ModuleType(PACKAGE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[PACKAGE] = package
    found = importlib.import_module(f"{PACKAGE}.{name}")
    for each, module in list(sys.modules.items()):
        if each.startswith(f"{PACKAGE}."):
            vars(module).setdefault("print", _told)
    return found


def _told(*words: object, **_: object) -> None:
    log.info("%s", " ".join(map(str, words)))


def _as_detector(detector: Any, *modules: torch.nn.Module) -> Detector:
    """One whose call takes the picture as it is when both resolutions are its shorter side."""
    import torch

    def run(pixels: Pixels, **arguments: Any) -> tuple[Pixels, None]:
        side = min(pixels.shape[:2])
        return detector(pixels, detect_resolution=side, image_resolution=side, output_type="np", **arguments), None

    return Detector(torch.nn.ModuleList(modules), run)


def _single(module: str, name: str, attribute: str) -> Callable[[Path], Detector]:
    """A detector with one file of weights, and one network as an attribute."""

    def load_it(file: Path) -> Detector:
        made = getattr(part(module), name).from_pretrained(str(file.parent), filename=str(file))
        return _as_detector(made, getattr(made, attribute))

    return load_it


def _hed(file: Path) -> Detector:
    detector = _single("hed", "HEDdetector", "netNetwork")(file)

    def run(pixels: Pixels, scribble: bool) -> tuple[Pixels, None]:
        return detector.run(pixels, scribble=scribble, safe=True)  # type: ignore[return-value]

    return Detector(detector.module, run)


def _lineart(file: Path) -> Detector:
    # the coarse network, which is not used here, would be another file to fetch
    made = part("lineart").LineartDetector.from_pretrained(
        str(file.parent), filename=str(file), coarse_filename=str(file)
    )
    made.model_coarse = None
    return _as_detector(made, made.model)


def _lineart_anime(file: Path) -> Detector:
    import cv2

    detector = _single("lineart_anime", "LineartAnimeDetector", "model")(file)

    def run(pixels: Pixels) -> tuple[Pixels, None]:
        # the network takes multiples of 256; the way back is comfyui_controlnet_aux's, not the detector's own
        height, width = pixels.shape[:2]
        fitted = cv2.resize(pixels, (width + -width % 256, height + -height % 256), interpolation=cv2.INTER_CUBIC)
        lines, _ = detector.run(fitted)
        return 255 - cv2.resize(255 - lines, (width, height), interpolation=cv2.INTER_AREA), None

    return Detector(detector.module, run)


def _zoe(file: Path) -> Detector:
    detector = _single("zoe", "ZoeDetector", "model")(file)
    lacking = set(dict(detector.module[0].named_parameters())) - set(_tensors(file)["model"])
    if lacking:  # ZoeDetector itself goes on with random ones in their place
        raise ValueError(f"{len(lacking)} of its tensors are missing, as {min(lacking)}")
    # each of its 24 blocks keeps a table of its own, of hundreds of megabytes for a long picture, of every size it meets
    tables: dict[str, torch.Tensor] = {}
    for module in detector.module.modules():
        if hasattr(module, "relative_position_indices"):
            module.relative_position_indices = tables

    def run(pixels: Pixels) -> tuple[Pixels, None]:
        try:
            return detector.run(pixels)  # type: ignore[return-value]
        finally:
            tables.clear()

    return Detector(detector.module, run)


def _openpose(body: Path, *others: Path) -> Detector:
    """The body's network, and the hand's and the face's where their files are given."""
    import torch

    m = part("open_pose")
    named = {file.name: file for file in others}
    hand = m.Hand(str(named["hand_pose_model.pth"])) if "hand_pose_model.pth" in named else None
    face = m.Face(str(named["facenet.pth"])) if "facenet.pth" in named else None
    if face:
        face.compute_peaks_from_heatmaps = _face_points
    detector = m.OpenposeDetector(m.Body(str(body)), hand, face)
    modules = [each.model for each in (detector.body_estimation, hand, face) if each is not None]

    def run(pixels: Pixels, include_hand: bool, include_face: bool) -> tuple[Pixels, list[Person]]:
        height, width = pixels.shape[:2]
        poses = detector.detect_poses(pixels, include_hand, include_face)
        drawn = m.draw_poses(poses, height, width, True, include_hand, include_face)
        return drawn, [_person(pose, width, height) for pose in poses]

    return Detector(torch.nn.ModuleList(modules), run)


def _face_points(heatmaps: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Where each point of a face is seen (x, y), [0, 0] where it is not.

    The detector's own leaves out what is not seen, and so gives the points behind it each other's numbers.
    """
    height, width = heatmaps.shape[1:]
    flat = heatmaps.reshape(-1, height * width)
    places = np.stack(np.divmod(flat.argmax(axis=1), width)[::-1], axis=1)
    return np.where(flat.max(axis=1, keepdims=True) > 0.05, places, 0)  # what the detector takes as seen


def _person(pose: Any, width: int, height: int) -> Person:
    def points(found: Any) -> list[tuple[float, float, float] | None]:
        return [
            None if p is None or p.x < 0 or p.y < 0 else (float(p.x) * width, float(p.y) * height, float(p.score))
            for p in found or ()
        ]

    parts = {"pose": pose.body.keypoints, "face": pose.face and pose.face[:FACE]}
    parts |= {"hand_left": pose.left_hand, "hand_right": pose.right_hand}
    return {name: points(found) for name, found in parts.items()}


def uper_net() -> Any:
    """UperNet over ConvNeXt small for ADE20K's 150 classes, without weights."""
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    stages = ["stage1", "stage2", "stage3", "stage4"]
    backbone = ConvNextConfig(depths=[3, 3, 27, 3], hidden_sizes=[96, 192, 384, 768], out_features=stages)
    config = UperNetConfig(backbone_config=backbone, hidden_size=512, auxiliary_in_channels=384, num_labels=150)
    return UperNetForSemanticSegmentation(config)


def _segmentation(file: Path) -> Detector:
    """ADE20K's classes in the colours that ControlNet was trained with."""
    import torch

    model = uper_net()
    model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    model.auxiliary_head = None  # for training only
    palette = np.array(part("util").ade_palette(), np.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))

    def run(pixels: Pixels) -> tuple[Pixels, None]:
        device = next(model.parameters()).device
        scaled = (torch.from_numpy(pixels).movedim(-1, 0).float() / 255 - mean) / std
        labels = model(scaled[None].to(device)).logits[0].argmax(dim=0)
        return palette[labels.cpu().numpy()], None

    return Detector(model, run)


_LOADERS: Mapping[str, Callable[..., Detector]] = {
    "openpose": _openpose,
    "hed": _hed,
    "lineart": _lineart,
    "lineart_anime": _lineart_anime,
    "midas": _single("midas", "MidasDetector", "model"),
    "zoe": _zoe,
    "normal_bae": _single("normalbae", "NormalBaeDetector", "model"),
    "segmentation": _segmentation,
}
