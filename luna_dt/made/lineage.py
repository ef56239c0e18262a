"""What came from what: the tree of an image's generations, as text, SVG or PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from ..generation import Generation
from ..records import ImageRecord
from ..sheet import ACCENT, FAINT, GAP, INK, LINE, PAPER, TILE, fitting, paste, thumbnail

if TYPE_CHECKING:
    from PIL import Image

DEPTH = 500  # generations in a row that are drawn


@dataclass(frozen=True)
class Node:
    """An image of DT (``image``), or a generation that DT has not scanned, or both; and what came from it."""

    image: ImageRecord | None
    made: Generation | None
    children: tuple[Node, ...]
    asked: bool = False

    @property
    def title(self) -> str:
        how = f"{self.made.operation}: " if self.made else ""
        if self.image:
            return f"{how}image {self.image.id}"
        return f"{how}{self.made.output or 'not saved'}" if self.made else "an image that DT does not have"

    @property
    def prompt(self) -> str:
        return self.made.prompt if self.made and self.made.prompt else self.image.prompt if self.image else ""


def tree(
    image_id: int,
    generations: Sequence[Generation],
    image: Callable[[int], ImageRecord | None],
    at_path: Callable[[str], ImageRecord | None],
) -> Node:
    """The tree that image belongs to, from the first image known.

    ``image`` finds an image of DT by its id, ``at_path`` the one that lies at a path, by which a generation's
    output is found again; ``base`` links a generation to the one it was made from.
    """
    by_key = {made.key: made for made in generations if made.key}
    result = {made.key: at_path(made.output) if made.output else None for made in generations}
    made_it = {found.id: by_key[key] for key, found in result.items() if found}

    def parent(of: int | str) -> int | str | None:
        made = made_it.get(of) if isinstance(of, int) else by_key.get(of)
        if made is None:
            return None
        base = by_key.get(made.base) if made.base else None
        if base is not None:
            found = result[base.key]
            return found.id if found else base.key
        return made.source_image_id

    root: int | str = image_id
    seen = {root}
    while (above := parent(root)) is not None and above not in seen:
        root = above
        seen.add(root)

    below: dict[int | str, dict[int | str, None]] = {}  # as an ordered set: two records of one picture are one child
    for key in by_key:
        there = result[key]
        name: int | str = there.id if there else key
        above = parent(name)
        if above is not None and above != name:
            below.setdefault(above, {})[name] = None
    drawn = {root}

    def grown(of: int | str, depth: int) -> Node:
        if isinstance(of, int):
            found, made = image(of), made_it.get(of)
        else:
            found, made = result[of], by_key[of]
        children = []
        for name in below.get(of, ()):
            if name not in drawn and depth < DEPTH:
                drawn.add(name)
                children.append(grown(name, depth + 1))
        return Node(found, made, tuple(children), asked=of == image_id)

    return grown(root, 0)


def walk(node: Node, depth: int = 0) -> Iterator[tuple[int, Node]]:
    """Every node with its depth, parents before their children."""
    yield depth, node
    for child in node.children:
        yield from walk(child, depth + 1)


def as_text(node: Node) -> str:
    """One line a node, drawn as a tree."""

    def lines(node: Node, first: str, rest: str) -> Iterator[str]:
        mark = "  <-" if node.asked else ""
        prompt = " ".join(node.prompt.split())
        yield f"{first}{node.title}  {prompt[:60]}{'…' if len(prompt) > 60 else ''}{mark}"
        for i, child in enumerate(node.children):
            last = i == len(node.children) - 1
            yield from lines(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    return "\n".join(lines(node, "", ""))


STEP_X, STEP_Y = TILE + 5 * GAP, TILE + 2 * LINE + 2 * GAP


def _places(node: Node) -> tuple[dict[int, tuple[int, int]], int, int]:
    """Where each node's tile lies (by the node's id()), and the size of the whole: children to the right."""
    places: dict[int, tuple[int, int]] = {}
    row = 0

    def place(node: Node, depth: int) -> int:
        nonlocal row
        rows = [place(child, depth + 1) for child in node.children]
        if not rows:
            rows = [row]
            row += 1
        at = (rows[0] + rows[-1]) // 2
        places[id(node)] = (GAP + depth * STEP_X, GAP + at * STEP_Y)
        return at

    place(node, 0)
    right = max(x for x, _ in places.values())
    return places, right + TILE + GAP, row * STEP_Y + GAP


def as_png(node: Node, picture: Callable[[Node], Image.Image | None]) -> Image.Image:
    """The tree with a thumbnail of each node; ``picture`` gives None for what cannot be opened."""
    from PIL import Image, ImageDraw, ImageFont

    places, width, height = _places(node)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for _, each in walk(node):
        x, y = places[id(each)]
        for child in each.children:
            to_x, to_y = places[id(child)]
            draw.line((x + TILE, y + TILE // 2, to_x, to_y + TILE // 2), fill=FAINT, width=2)
        draw.rectangle(
            (x - 3, y - 3, x + TILE + 2, y + TILE + 2), PAPER, ACCENT if each.asked else FAINT, 3 if each.asked else 1
        )
        shown = picture(each)
        if shown is None:
            draw.text((x + TILE / 2, y + TILE / 2), "no picture", FAINT, font, anchor="mm")
        else:
            paste(sheet, shown, x, y)
        draw.text((x, y + TILE + 5), fitting(each.title, font), ACCENT if each.asked else INK, font)
        draw.text((x, y + TILE + 5 + LINE), fitting(each.prompt, font), FAINT, font)
    return sheet


def as_svg(node: Node, picture: Callable[[Node], Image.Image | None]) -> str:
    """The same as SVG, its thumbnails inside, so that the one file can be passed on."""
    places, width, height = _places(node)

    def colour(rgb: tuple[int, int, int]) -> str:
        return "#{:02x}{:02x}{:02x}".format(*rgb)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="{colour(PAPER)}"/>',
    ]
    for _, each in walk(node):
        x, y = places[id(each)]
        for child in each.children:
            to_x, to_y = places[id(child)]
            parts.append(f'<path d="M{x + TILE} {y + TILE // 2}L{to_x} {to_y + TILE // 2}" stroke="{colour(FAINT)}"/>')
        edge = ACCENT if each.asked else FAINT
        parts.append(
            f'<g><title>{escape(each.prompt)}</title><rect x="{x - 2}" y="{y - 2}" width="{TILE + 4}" '
            f'height="{TILE + 4}" fill="{colour(PAPER)}" stroke="{colour(edge)}"/>'
        )
        shown = picture(each)
        if shown is not None:
            data = io.BytesIO()
            thumbnail(shown).save(data, "JPEG", quality=85)
            parts.append(
                f'<image x="{x}" y="{y}" width="{TILE}" height="{TILE}" '
                f'href="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"/>'
            )
        short = each.prompt[:30] + ("…" if len(each.prompt) > 30 else "")
        parts.append(f'<text x="{x}" y="{y + TILE + 17}" fill="{colour(INK)}">{escape(each.title)}</text>')
        parts.append(f'<text x="{x}" y="{y + TILE + 17 + LINE}" fill="{colour(FAINT)}">{escape(short)}</text></g>')
    return "\n".join([*parts, "</svg>\n"])
