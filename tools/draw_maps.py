"""Draws docs/maps.jpg: the 13 maps of one picture.

    python -m tools.draw_maps [WEIGHTS]

``WEIGHTS`` is a folder with the published weights, as comfyui_controlnet_aux's ``ckpts``.  Without it those of the
tests are used, which are random (but for OpenPose's body, see tests/weights.py), and the picture says so.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from luna_dt import Library, Settings
from luna_dt.demo.drawing import draw, random_scene
from luna_dt.preproc.catalogue import TYPES
from luna_dt.sheet import contact_sheet
from tests.weights import figure, write

TARGET = Path(__file__).resolve().parents[1] / "docs" / "maps.jpg"
SIZE = (768, 576)


def picture() -> Image.Image:
    """A drawing with a figure of coloured dots before it, which the tests' weights take for a person."""
    drawn = draw(random_scene(random.Random(3), "house"), SIZE).convert("RGB")
    dots = np.asarray(figure(SIZE[1])[0])
    whole = np.asarray(drawn).copy()
    part = whole[:, : dots.shape[1]]
    part[dots.any(axis=2)] = dots[dots.any(axis=2)]
    return Image.fromarray(whole)


def main() -> None:
    source = picture()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = len(sys.argv) > 1
        weights = Path(sys.argv[1]) if given else Path(folder) / "weights"
        if not given:
            write(weights)
        settings = Settings(home=Path(folder) / "home", dt="http://127.0.0.1:9", models=(weights,))
        found = []
        with Library(settings=settings) as library:
            for kind in TYPES:
                told = "random weights"
                if given or kind == "canny":
                    told = TYPES[kind].licence
                elif TYPES[kind].has_keypoints:
                    told = "body set by hand, the rest random" if kind != "openpose" else "weights set by hand"
                found.append((library.map(kind, source).picture, kind, told))
    contact_sheet(source, "the picture", found, columns=7).save(TARGET, quality=82)


if __name__ == "__main__":
    main()
