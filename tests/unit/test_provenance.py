"""What a picture says of its own making."""

from __future__ import annotations

import random
from pathlib import Path

from luna_dt.demo import database
from luna_dt.demo.drawing import random_scene


def test_the_demos_pictures_say_what_automatic1111_would() -> None:
    scene = random_scene(random.Random(1), "cat")
    drawing = database.Drawing(scene, Path("x.png"), (256, 384), 2**31, 28, "DPM++ 2M", None)
    assert drawing.parameters == (
        f"{scene.caption}\nNegative prompt: blurry, low quality\nSteps: 28, Sampler: DPM++ 2M, CFG scale: 7, "
        f"Seed: {2**31}, Size: 256x384, Model: drawings_v1"
    )
