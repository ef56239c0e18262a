"""The tree of lineage drawn, as SVG or PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

from ..plain import shown  # XML, too, has no controls and no halves of characters
from ..sheet import ACCENT, FAINT, GAP, INK, LINE, PAPER, TILE, fitting, paste, thumbnail
from .lineage import Node, walk

if TYPE_CHECKING:
    from PIL import Image

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
            f'<g><title>{escape(shown(each.prompt, 10_000))}</title><rect x="{x - 2}" y="{y - 2}" width="{TILE + 4}" '
            f'height="{TILE + 4}" fill="{colour(PAPER)}" stroke="{colour(edge)}"/>'
        )
        small = picture(each)
        if small is not None:
            data = io.BytesIO()
            thumbnail(small).save(data, "JPEG", quality=85)
            parts.append(
                f'<image x="{x}" y="{y}" width="{TILE}" height="{TILE}" '
                f'href="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"/>'
            )
        short = each.prompt[:30] + ("…" if len(each.prompt) > 30 else "")
        parts.append(f'<text x="{x}" y="{y + TILE + 17}" fill="{colour(INK)}">{escape(shown(each.title, 200))}</text>')
        parts.append(
            f'<text x="{x}" y="{y + TILE + 17 + LINE}" fill="{colour(FAINT)}">{escape(shown(short))}</text></g>'
        )
    return "\n".join([*parts, "</svg>\n"])
