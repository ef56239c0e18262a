"""ControlNet maps, made here: from a type and a picture to a map of exactly the picture's size."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, OutOfMemory
from ..memory import Memory, empty_cache, is_out_of_memory, place
from . import weights
from .map_types import MapType

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from .detectors import Detector, Person
    from .frame import Frame

#: Of the whole process, as are MiDaS's activations and what loading a detector does to other modules.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Made:
    """A map: ``picture`` has the source's size and is RGB, or L where the three channels are the same;
    ``keypoints`` is OpenPose's JSON object for a pose."""

    picture: Image.Image
    keypoints: dict[str, Any] | None = None


class Detectors:
    """Makes maps, one at a time and with one detector in memory; safe to use from several threads."""

    def __init__(self, device: str, folders: Sequence[Path], memory: Memory, sha256: weights.Hasher) -> None:
        """``sha256`` gives that of a file of weights; it is asked for often."""
        self._device, self._folders, self._memory, self._sha256 = device, folders, memory, sha256

    def identity(self, kind: MapType) -> str | None:
        """Names the weights of a type that are here; None if some are not here."""
        return weights.identity(kind, self._folders, self._sha256)

    def fetch(self, kind: MapType) -> None:
        """Downloads what weights of a type are missing, and checks them all; raises WeightsError, MissingExtra."""
        weights.find(kind, self._folders, self._sha256)

    def make(self, kind: MapType, picture: Image.Image, parameters: Mapping[str, Any]) -> Made:
        """The map of an RGB picture, with ``kind.parameters()``.

        Raises WeightsError, MissingExtra, OutOfMemory.
        """
        try:
            import cv2
            import numpy as np
        except ImportError as error:
            raise MissingExtra("OpenCV", "maps") from error
        from PIL import Image

        from . import detectors
        from .frame import Frame

        files = weights.find(kind, self._folders, self._sha256)
        persons: list[Person] | None = None
        try:
            frame = Frame.of(np.asarray(picture), parameters["resolution"])
            # what divides by a constant picture's range is not to warn, and gives the same every time
            with _ONE_AT_A_TIME, np.errstate(all="ignore"):
                if kind.has_thresholds:
                    made, persons = detectors.canny(frame.pixels, parameters["low"], parameters["high"])
                else:
                    made, persons = self._neural(kind, frame, files)
        except (cv2.error, MemoryError) as error:
            if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
                raise
            raise OutOfMemory(f"no {kind.name} map could be made: {error}; ask for a lower resolution") from error
        if made.ndim == 3 and (made[..., 0] == made[..., 1]).all() and (made[..., 1] == made[..., 2]).all():
            made = made[..., 0]
        return Made(Image.fromarray(frame.unframed(made, kind.resampling)), _openpose_json(persons, frame))

    def _neural(self, kind: MapType, frame: Frame, files: Sequence[Path]) -> tuple[np.ndarray[Any, Any], Any]:
        from . import detectors

        device, _ = place(self._device)
        key = ("detector", kind.detector, tuple(map(self._sha256, files)), device)
        while True:
            detector = self._memory.get(key, lambda: detectors.load(kind.detector, files), alone=True)
            try:
                return self._run(detector, kind, frame, device)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._memory.release(but=detector):
                    continue
                empty_cache()
                raise OutOfMemory(
                    f"there is no memory to make a {kind.name} map of {frame.width}x{frame.height} pixels; ask for a "
                    "lower resolution, close what else uses the device, or set LUNA_DT_DEVICE=cpu"
                ) from error

    def _run(self, detector: Detector, kind: MapType, frame: Frame, device: Any) -> tuple[np.ndarray[Any, Any], Any]:
        import torch

        self._memory.ready(detector.module, device)
        with torch.inference_mode(), _deterministic():
            made = detector.run(frame.pixels, **kind.arguments)
        self._memory.touch()
        return made


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """The same bytes every time: CUDA's fastest convolutions add in another order each time."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _openpose_json(persons: list[Person] | None, frame: Frame) -> dict[str, Any] | None:
    """OpenPose's JSON output (its doc/02_output.md): keypoints in pixels of the source, with their confidence."""
    if persons is None:
        return None
    across, down = frame.source[0] / frame.width, frame.source[1] / frame.height

    def flat(points: Any) -> list[float]:
        values: list[float] = []
        for point in points:
            inside = point is not None and point[0] <= frame.width and point[1] <= frame.height
            values += [point[0] * across, point[1] * down, point[2]] if inside else [0.0, 0.0, 0.0]
        return [round(value, 3) for value in values]

    people = [{"person_id": [-1], **{f"{name}_keypoints_2d": flat(p) for name, p in each.items()}} for each in persons]
    return {"version": 1.3, "people": people, "canvas_width": frame.source[0], "canvas_height": frame.source[1]}
