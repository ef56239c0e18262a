"""The 13 ControlNet maps: how each is made, from which weights, under which licence, and how it is brought to size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from typing import Any, Literal

from ..errors import BadInput

ANNOTATORS = "lllyasviel/Annotators"
RESOLUTION, LOW, HIGH = 512, 100, 200  # what comfyui_controlnet_aux's nodes have until they are told otherwise
MIN_RESOLUTION, MAX_RESOLUTION = 64, 4096

MAKING = 1  # to be raised when a map comes out another way than before, so that those that are kept are made again

Resolution = int | Literal["source"]
Resampling = Literal["lines", "smooth", "labels"]


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights: its name, about how large it is (megabytes), where it is published, and its SHA-256
    where that is known."""

    file: str
    megabytes: int
    sha256: str = ""
    repository: str = ANNOTATORS


@dataclass(frozen=True)
class MapType:
    """One type of map: the ``detector`` (detectors.py) that makes it from ``weights`` with ``arguments``.

    ``resampling`` says how what was made at the working resolution comes to the source's size; ``node`` is the
    nearest node of comfyui_controlnet_aux, and ``differs`` what its map would have otherwise.
    """

    name: str
    detector: str
    weights: tuple[WeightsFile, ...]
    resampling: Resampling
    licence: str
    node: str
    differs: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_thresholds(self) -> bool:
        return self.detector == "canny"

    @property
    def has_keypoints(self) -> bool:
        return self.detector == "openpose"

    def parameters(self, resolution: Resolution = RESOLUTION, low: int = LOW, high: int = HIGH) -> dict[str, Any]:
        """What a map of this type depends on beside its source and weights; raises BadInput for what cannot be."""
        try:
            wanted: Resolution = "source" if resolution == "source" else index(resolution)  # NumPy's, too
        except TypeError:
            wanted = 0
        if wanted != "source" and not MIN_RESOLUTION <= wanted <= MAX_RESOLUTION:
            raise BadInput(
                f"resolution is {MIN_RESOLUTION} to {MAX_RESOLUTION} pixels of the shorter side, or source, "
                f"not {resolution!r}"
            )
        if not self.has_thresholds:
            return {"resolution": wanted}
        if not 0 <= low <= high <= 255:
            raise BadInput(f"canny's thresholds are 0 to 255, the low one first, not {low} and {high}")
        return {"resolution": wanted, "low": int(low), "high": int(high)}


OPENPOSE = "CMU OpenPose licence: not for commercial use"
_BODY = WeightsFile("body_pose_model.pth", 209, "25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746")
_HAND = WeightsFile("hand_pose_model.pth", 147, "b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600")
_FACE = WeightsFile("facenet.pth", 154, "8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43")
_HED = WeightsFile("ControlNetHED.pth", 29, "5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa")
_MIDAS = WeightsFile(
    "dpt_hybrid-midas-501f0c75.pt", 493, "501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853"
)
_ZOE = WeightsFile("ZoeD_M12_N.pt", 1443, "c97f94c4d53c5b788af46c5da0462262aebb37ea116fd70014bcbba93146c33b")
_UPERNET = WeightsFile("pytorch_model.bin", 328, repository="openmmlab/upernet-convnext-small")
_SAFE = "its `safe` must be enabled, as it is by default"


def _openpose(name: str, weights: tuple[WeightsFile, ...], hand: bool = False, face: bool = False) -> MapType:
    differs = f"detect_hand {'enable' if hand else 'disable'}, detect_face {'enable' if face else 'disable'}"
    arguments = {"include_hand": hand, "include_face": face}
    return MapType(name, "openpose", weights, "smooth", OPENPOSE, "OpenposePreprocessor", differs, arguments)


TYPES = {
    each.name: each
    for each in (
        _openpose("openpose", (_BODY,)),
        _openpose("openpose_face", (_BODY, _FACE), face=True),
        _openpose("openpose_hand", (_BODY, _HAND), hand=True),
        _openpose("openpose_full", (_BODY, _HAND, _FACE), hand=True, face=True),
        MapType("canny", "canny", (), "lines", "Apache 2.0 (OpenCV)", "CannyEdgePreprocessor"),
        MapType(
            "depth_midas", "midas", (_MIDAS,), "smooth", "MIT", "MiDaS-DepthMapPreprocessor",
            "its weights are Intel/dpt-hybrid-midas",
        ),
        MapType(
            "depth_zoe", "zoe", (_ZOE,), "smooth", "MIT", "Zoe-DepthMapPreprocessor",
            "its weights are Intel/zoedepth-nyu-kitti",
        ),
        MapType("normal_bae", "normal_bae", (WeightsFile("scannet.pt", 291),), "smooth", "MIT", "BAE-NormalMapPreprocessor"),
        MapType("lineart", "lineart", (WeightsFile("sk_model.pth", 17),), "lines", "MIT", "LineArtPreprocessor"),
        MapType("lineart_anime", "lineart_anime", (WeightsFile("netG.pth", 218),), "lines", "MIT", "AnimeLineArtPreprocessor"),
        MapType("softedge", "hed", (_HED,), "smooth", "Apache 2.0", "HEDPreprocessor", _SAFE, {"scribble": False}),
        MapType("scribble", "hed", (_HED,), "lines", "Apache 2.0", "FakeScribblePreprocessor", _SAFE, {"scribble": True}),
        MapType(
            "segmentation", "segmentation", (_UPERNET,), "labels", "MIT", "OneFormer-ADE20K-SemSegPreprocessor",
            "another network, with the same colours for ADE20K's classes",
        ),
    )
}  # fmt: skip


def map_type(name: str) -> MapType:
    """Raises BadInput for a name that is none of the 13."""
    if name not in TYPES:
        raise BadInput(f"'{name}' is no type of ControlNet map; there are: {', '.join(TYPES)}")
    return TYPES[name]
