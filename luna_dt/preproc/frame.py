"""The working picture: a source brought to a resolution and padded, and its map brought back to the source's size.

As comfyui_controlnet_aux does it, so that the maps are the same: the shorter side becomes the resolution, then
the right and lower edges are repeated until both sides are multiples of 64, and the padding is cropped off what
was made.  controlnet_aux's own way rounds each side to 64, which changes the picture's shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .map_types import Resampling, Resolution

Pixels = npt.NDArray[np.uint8]

MULTIPLE = 64
#: Limits of the working picture: how long a side may be enlarged to, in resolutions, and how many pixels there may be.
MAX_ASPECT, MAX_WORKED = 4, 1 << 24


@dataclass(frozen=True)
class Frame:
    """``pixels`` uint8[H, W, 3], padded; of these ``height`` and ``width`` are the picture; ``source`` is its own
    (width, height)."""

    pixels: Pixels
    height: int
    width: int
    source: tuple[int, int]

    @classmethod
    def of(cls, picture: Pixels, resolution: Resolution) -> Frame:
        """The working picture of uint8[H, W, 3]."""
        height, width = picture.shape[:2]
        short, long = sorted((height, width))
        wanted = short if resolution == "source" else resolution
        padded = max(short, long / MAX_ASPECT) * long
        scale = min(wanted / short, max(1.0, MAX_ASPECT * wanted / long), (MAX_WORKED / padded) ** 0.5)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        fitted: Any = picture
        if size != (width, height):
            fitted = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
        least = max(size) // MAX_ASPECT
        pad = [(0, max(side, least) + -max(side, least) % MULTIPLE - side) for side in size[::-1]]
        return cls(np.ascontiguousarray(np.pad(fitted, [*pad, (0, 0)], mode="edge")), size[1], size[0], (width, height))

    def unframed(self, made: Pixels, resampling: Resampling) -> Pixels:
        """What was made of ``pixels``, uint8[H, W] or [H, W, 3], without the padding and at the source's size."""
        cropped = np.ascontiguousarray(made[: self.height, : self.width])
        if (self.width, self.height) == self.source:
            return cropped
        larger = self.source[0] > self.width
        ways = {
            "labels": cv2.INTER_NEAREST,
            "smooth": cv2.INTER_LINEAR,
            "lines": cv2.INTER_CUBIC if larger else cv2.INTER_AREA,
        }
        return np.asarray(cv2.resize(cropped, self.source, interpolation=ways[resampling]), np.uint8)
