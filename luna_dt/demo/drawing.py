"""Pictures that mean something: 24 drawn subjects with colours, textures and places, and their captions.

The tiny model is trained on these drawings, the demo library is made of them, and the tests
measure on drawings that the model never saw.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 48, 49),
    "orange": (236, 132, 34),
    "yellow": (241, 206, 58),
    "green": (56, 150, 72),
    "teal": (38, 160, 160),
    "blue": (52, 98, 206),
    "purple": (132, 68, 180),
    "pink": (236, 128, 176),
    "white": (242, 242, 238),
    "black": (36, 36, 42),
}
TEXTURES = ("plain", "striped", "dotted", "checkered", "shaded", "rough")
PLACES = {
    "in the middle": (0.0, 0.0),
    "on the left": (-1.0, 0.0),
    "on the right": (1.0, 0.0),
    "at the top": (0.0, -1.0),
    "at the bottom": (0.0, 1.0),
}
SIZES = {"small": 0.30, "large": 0.43}
SUPERSAMPLING = 3

Point = tuple[float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Scene:
    """What one drawing shows; ``seed`` varies tilt, exact place and background details."""

    subject: str
    colour: str
    texture: str
    background: str
    place: str
    size: str
    seed: int

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.subject} {self.place}, {self.texture} {self.background} background"


class _Brush:
    """Draws unit-square shapes (x and y in -1..1) onto the canvas, turned, scaled and moved."""

    def __init__(self, canvas: Image.Image, centre: Point, radius: float, angle: float, squeeze: float) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._centre, self._radius = centre, radius
        self._cos, self._sin, self._squeeze = math.cos(angle), math.sin(angle), squeeze

    def _at(self, point: Point) -> Point:
        x, y = point[0] * self._squeeze, point[1] / self._squeeze
        return (
            self._centre[0] + self._radius * (x * self._cos - y * self._sin),
            self._centre[1] + self._radius * (x * self._sin + y * self._cos),
        )

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self._draw.polygon([self._at(p) for p in points], fill=fill)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        turns = (i * math.tau / 48 for i in range(48))
        self.polygon([(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns], fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points: list[Point], width: float, fill: Colour) -> None:
        thick = max(1, round(width * self._radius))
        self._draw.line([self._at(p) for p in points], fill=fill, width=thick, joint="curve")


def _star_points(spikes: int, inner: float) -> list[Point]:
    return [
        ((1.0, inner)[i % 2] * math.sin(i * math.pi / spikes), -(1.0, inner)[i % 2] * math.cos(i * math.pi / spikes))
        for i in range(2 * spikes)
    ]


def _ball(b: _Brush, c: Colour, d: Colour) -> None:
    b.ellipse(0, 0, 0.9, 0.9, c)
    b.ellipse(-0.3, -0.35, 0.2, 0.16, d)


def _box(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.8, -0.8, 0.8, 0.8, c)
    b.line([(-0.8, -0.8), (0.8, 0.8)], 0.12, d)
    b.line([(-0.8, 0.8), (0.8, -0.8)], 0.12, d)


def _triangle(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon([(0, -0.95), (0.95, 0.8), (-0.95, 0.8)], c)


def _star(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon(_star_points(5, 0.42), c)


def _heart(b: _Brush, c: Colour, d: Colour) -> None:
    b.ellipse(-0.45, -0.35, 0.5, 0.5, c)
    b.ellipse(0.45, -0.35, 0.5, 0.5, c)
    b.polygon([(-0.9, -0.15), (0.9, -0.15), (0, 0.95)], c)


def _moon(b: _Brush, c: Colour, d: Colour) -> None:
    outer = [(0.9 * math.cos(t), 0.9 * math.sin(t)) for t in (i * math.pi / 24 for i in range(12, 37))]
    inner = [(0.1 + 0.42 * math.cos(t), 0.9 * math.sin(t)) for t in (i * math.pi / 24 for i in range(36, 11, -1))]
    b.polygon([(x + 0.3, y) for x, y in outer + [(x - 0.1, y) for x, y in inner]], c)


def _ring(b: _Brush, c: Colour, d: Colour) -> None:
    turns = [i * math.tau / 48 for i in range(50)]
    b.line([(0.72 * math.cos(t), 0.72 * math.sin(t)) for t in turns], 0.36, c)


def _cross(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.28, -0.92, 0.28, 0.92, c)
    b.box(-0.92, -0.28, 0.92, 0.28, c)


def _arrow(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.95, -0.2, 0.2, 0.2, c)
    b.polygon([(0.1, -0.65), (0.98, 0), (0.1, 0.65)], c)


def _house(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.65, -0.1, 0.65, 0.85, c)
    b.polygon([(-0.9, -0.1), (0, -0.9), (0.9, -0.1)], d)
    b.box(-0.15, 0.3, 0.2, 0.85, d)


def _tree(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.13, 0.3, 0.13, 0.95, d)
    for top, width in ((-0.95, 0.5), (-0.55, 0.65), (-0.15, 0.8)):
        b.polygon([(0, top), (width, top + 0.7), (-width, top + 0.7)], c)


def _fish(b: _Brush, c: Colour, d: Colour) -> None:
    b.ellipse(-0.15, 0, 0.75, 0.45, c)
    b.polygon([(0.4, 0), (0.95, -0.5), (0.95, 0.5)], c)
    b.ellipse(-0.55, -0.1, 0.1, 0.1, d)


def _flower(b: _Brush, c: Colour, d: Colour) -> None:
    for i in range(6):
        t = i * math.tau / 6
        b.ellipse(0.55 * math.cos(t), 0.55 * math.sin(t), 0.36, 0.36, c)
    b.ellipse(0, 0, 0.3, 0.3, d)


def _cat(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon([(-0.8, -0.95), (-0.15, -0.45), (-0.75, 0.1)], c)
    b.polygon([(0.8, -0.95), (0.15, -0.45), (0.75, 0.1)], c)
    b.ellipse(0, 0.15, 0.8, 0.7, c)
    for x in (-0.32, 0.32):
        b.ellipse(x, 0.0, 0.13, 0.17, d)
    b.polygon([(-0.12, 0.3), (0.12, 0.3), (0, 0.48)], d)


def _boat(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon([(-0.95, 0.35), (0.95, 0.35), (0.6, 0.85), (-0.6, 0.85)], c)
    b.box(-0.06, -0.95, 0.06, 0.35, d)
    b.polygon([(0.12, -0.85), (0.8, 0.2), (0.12, 0.2)], c)


def _car(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon([(-0.55, -0.1), (-0.35, -0.5), (0.35, -0.5), (0.6, -0.1)], c)
    b.box(-0.95, -0.12, 0.95, 0.35, c)
    for x in (-0.5, 0.5):
        b.ellipse(x, 0.4, 0.24, 0.24, d)


def _mushroom(b: _Brush, c: Colour, d: Colour) -> None:
    b.box(-0.22, 0.0, 0.22, 0.9, d)
    cap = [(0.9 * math.cos(t), 0.1 + 0.95 * math.sin(t)) for t in (math.pi + i * math.pi / 24 for i in range(25))]
    b.polygon(cap, c)
    for x, y in ((-0.4, -0.3), (0.15, -0.5), (0.45, -0.15)):
        b.ellipse(x, y, 0.13, 0.13, d)


def _ladder(b: _Brush, c: Colour, d: Colour) -> None:
    for x in (-0.45, 0.45):
        b.box(x - 0.1, -0.95, x + 0.1, 0.95, c)
    for y in (-0.7, -0.25, 0.2, 0.65):
        b.box(-0.45, y - 0.08, 0.45, y + 0.08, c)


def _umbrella(b: _Brush, c: Colour, d: Colour) -> None:
    dome = [(0.95 * math.cos(t), 0.9 * math.sin(t)) for t in (math.pi + i * math.pi / 24 for i in range(25))]
    b.polygon(dome, c)
    b.line([(0, 0), (0, 0.7), (0.12, 0.88), (0.3, 0.88), (0.38, 0.7)], 0.11, d)


def _key(b: _Brush, c: Colour, d: Colour) -> None:
    turns = [i * math.tau / 36 for i in range(38)]
    b.line([(-0.55 + 0.32 * math.cos(t), 0.32 * math.sin(t)) for t in turns], 0.2, c)
    b.box(-0.2, -0.1, 0.95, 0.1, c)
    b.box(0.45, 0.1, 0.58, 0.4, c)
    b.box(0.75, 0.1, 0.9, 0.5, c)


def _cup(b: _Brush, c: Colour, d: Colour) -> None:
    turns = [-math.pi / 2 + i * math.pi / 18 for i in range(19)]
    b.line([(0.45 + 0.42 * math.cos(t), 0.42 * math.sin(t)) for t in turns], 0.16, c)
    b.polygon([(-0.75, -0.7), (0.5, -0.7), (0.35, 0.8), (-0.6, 0.8)], c)
    b.ellipse(-0.125, -0.7, 0.62, 0.16, d)


def _sun(b: _Brush, c: Colour, d: Colour) -> None:
    for i in range(10):
        t = i * math.tau / 10
        b.line([(0.62 * math.cos(t), 0.62 * math.sin(t)), (0.98 * math.cos(t), 0.98 * math.sin(t))], 0.13, c)
    b.ellipse(0, 0, 0.48, 0.48, c)


def _snowman(b: _Brush, c: Colour, d: Colour) -> None:
    b.ellipse(0, 0.5, 0.48, 0.46, c)
    b.ellipse(0, -0.12, 0.34, 0.32, c)
    b.ellipse(0, -0.56, 0.24, 0.23, c)
    b.box(-0.22, -1.0, 0.22, -0.72, d)
    b.box(-0.36, -0.76, 0.36, -0.68, d)


def _bolt(b: _Brush, c: Colour, d: Colour) -> None:
    b.polygon([(0.25, -0.98), (-0.6, 0.12), (-0.05, 0.12), (-0.3, 0.98), (0.6, -0.22), (0.05, -0.22)], c)


def _butterfly(b: _Brush, c: Colour, d: Colour) -> None:
    for side in (-1, 1):
        b.ellipse(side * 0.5, -0.35, 0.45, 0.42, c)
        b.ellipse(side * 0.42, 0.4, 0.34, 0.36, c)
    b.ellipse(0, 0.02, 0.11, 0.75, d)


SUBJECTS: dict[str, Callable[[_Brush, Colour, Colour], None]] = {
    "ball": _ball, "box": _box, "triangle": _triangle, "star": _star, "heart": _heart, "moon": _moon,
    "ring": _ring, "cross": _cross, "arrow": _arrow, "house": _house, "tree": _tree, "fish": _fish,
    "flower": _flower, "cat": _cat, "boat": _boat, "car": _car, "mushroom": _mushroom, "ladder": _ladder,
    "umbrella": _umbrella, "key": _key, "cup": _cup, "sun": _sun, "snowman": _snowman, "bolt": _bolt,
    "butterfly": _butterfly,
}  # fmt: skip


def random_scene(rng: random.Random, subject: str | None = None) -> Scene:
    """One scene with a subject (any, unless named) that stands out from its background."""
    colour, background = rng.sample(sorted(COLOURS), 2)
    return Scene(
        subject=subject or rng.choice(sorted(SUBJECTS)),
        colour=colour,
        texture=rng.choice(TEXTURES),
        background=background,
        place=rng.choice(sorted(PLACES)),
        size=rng.choice(sorted(SIZES)),
        seed=rng.getrandbits(31),
    )


def draw(scene: Scene, size: tuple[int, int] = (256, 256)) -> Image.Image:
    """The picture of a scene: RGB, ``size`` = (width, height) in pixels; the same scene gives the same bytes."""
    rng = random.Random(scene.seed)
    width, height = (side * SUPERSAMPLING for side in size)
    canvas = _background(scene, width, height, rng)
    reach = min(width, height)
    radius = reach * SIZES[scene.size] * rng.uniform(0.92, 1.08)
    x, y = PLACES[scene.place]
    centre = (
        width / 2 + x * (width / 2 - radius) * 0.9 + rng.uniform(-0.03, 0.03) * reach,
        height / 2 + y * (height / 2 - radius) * 0.9 + rng.uniform(-0.03, 0.03) * reach,
    )
    brush = _Brush(canvas, centre, radius, rng.gauss(0, 0.14), rng.uniform(0.92, 1.08))
    colour = COLOURS[scene.colour]
    detail = _shade(colour, 0.45) if sum(colour) > 330 else _shade(colour, 1.0, 110)
    SUBJECTS[scene.subject](brush, colour, detail)
    return canvas.resize(size, Image.Resampling.BOX)


def _shade(colour: Colour, factor: float, lift: int = 0) -> Colour:
    r, g, b = (min(255, max(0, round(channel * factor) + lift)) for channel in colour)
    return r, g, b


def _background(scene: Scene, width: int, height: int, rng: random.Random) -> Image.Image:
    base = COLOURS[scene.background]
    other = _shade(base, 0.86) if sum(base) > 120 else _shade(base, 1.0, 26)
    canvas = Image.new("RGB", (width, height), base)
    draw_on = ImageDraw.Draw(canvas)
    step = min(width, height) // rng.randint(7, 10)
    if scene.texture == "striped":
        slope = rng.choice((-1, 0, 1))
        for x in range(-height, width + height, 2 * step):
            draw_on.line([(x, 0), (x + slope * height, height)], fill=other, width=step)
    elif scene.texture == "dotted":
        for x in range(0, width + step, 2 * step):
            for y in range(0, height + step, 2 * step):
                draw_on.ellipse([x, y, x + step, y + step], fill=other)
    elif scene.texture == "checkered":
        for i, x in enumerate(range(0, width, step)):
            for j, y in enumerate(range(0, height, step)):
                if (i + j) % 2:
                    draw_on.rectangle([x, y, x + step, y + step], fill=other)
    elif scene.texture == "shaded":
        ramp = Image.linear_gradient("L").resize((width, height))
        canvas.paste(Image.new("RGB", (width, height), _shade(base, 0.6, 20)), mask=ramp)
    elif scene.texture == "rough":
        for _ in range(160):
            x, y = rng.randrange(width), rng.randrange(height)
            draw_on.line([(x, y), (x + rng.randint(-step, step), y + rng.randint(-step, step))], other, step // 4)
    return canvas
