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

from PIL import Image

from luna_dt import Library, Settings
from luna_dt.demo.drawing import draw, random_scene
from luna_dt.preproc.map_types import TYPES
from luna_dt.sheet import contact_sheet
from tests.weights import figure, write

TARGET = Path(__file__).resolve().parents[1] / "docs" / "maps.jpg"
HEIGHT = 576


def picture() -> Image.Image:
    """A drawing beside a figure of coloured dots on black, which the tests' weights take for a person."""
    whole = Image.new("RGB", (2 * HEIGHT, HEIGHT))
    whole.paste(figure(HEIGHT)[0])
    whole.paste(draw(random_scene(random.Random(3), "house"), (HEIGHT, HEIGHT)).convert("RGB"), (HEIGHT, 0))
    return whole


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
                    told = "body by hand, rest random" if kind != "openpose" else "weights set by hand"
                found.append((library.map(kind, source).picture, kind, told))
    contact_sheet(source, "the picture", found, columns=7).save(TARGET, quality=82)


if __name__ == "__main__":
    main()
