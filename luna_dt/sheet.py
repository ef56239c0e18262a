"""The contact sheet: a query and what was found, or groups of pictures, side by side, with their scores."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .plain import shown

Tile = tuple[Image.Image | None, str, str]  # a picture, its headline and its caption
TILE, GAP, LINE = 192, 12, 18
PAPER, INK, FAINT, ACCENT = (250, 249, 246), (32, 33, 36), (120, 122, 128), (196, 88, 38)


def contact_sheet(
    query: Image.Image | None,
    title: str,
    found: Sequence[Tile],
    columns: int = 5,
) -> Image.Image:
    """The query first, then each found (picture, headline, caption), left to right, top to bottom.

    A picture that is None (it could not be opened) leaves an empty frame in its place.
    """
    tiles: list[Tile | None] = [(query, title, "query"), *found]
    return _drawn(tiles, max(1, min(columns, len(tiles))), {0})


def group_sheet(groups: Sequence[Sequence[Tile]], columns: int = 5) -> Image.Image:
    """Groups of pictures below each other, each beginning a row with its first, which is marked."""
    tiles: list[Tile | None] = []
    firsts = set()
    for group in groups:
        firsts.add(len(tiles))
        tiles += [*group, *[None] * (-len(group) % columns)]
    return _drawn(tiles, columns, firsts)


def _drawn(tiles: Sequence[Tile | None], columns: int, marked: set[int]) -> Image.Image:
    """Tiles in rows, an empty place for each that is None."""
    rows = -(-len(tiles) // columns)
    step_x, step_y = TILE + GAP, TILE + 2 * LINE + GAP
    sheet = Image.new("RGB", (GAP + columns * step_x, GAP + rows * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for i, tile in enumerate(tiles):
        if tile is None:
            continue
        picture, headline, caption = tile
        x, y = GAP + i % columns * step_x, GAP + i // columns * step_y
        frame = (x - 3, y - 3, x + TILE + 2, y + TILE + 2)
        if picture is None:
            draw.rectangle(frame, outline=FAINT)
            draw.text(
                (x + TILE / 2, y + TILE / 2),
                "not to be opened" if i else "no picture",
                FAINT,
                font,
                anchor="mm",
            )
        else:
            paste(sheet, picture, x, y)
        if i in marked:
            draw.rectangle(frame, outline=ACCENT, width=3)
        draw.text((x, y + TILE + 5), fitting(headline, font), ACCENT if i in marked else INK, font)
        draw.text((x, y + TILE + 5 + LINE), fitting(caption, font), FAINT, font)
    return sheet


def thumbnail(picture: Image.Image) -> Image.Image:
    """A copy that fits into a tile."""
    fitted = picture.copy()
    fitted.thumbnail((TILE, TILE))
    return fitted


def paste(sheet: Image.Image, picture: Image.Image, x: int, y: int) -> None:
    """Puts a picture into the middle of the tile whose corner is at x, y."""
    fitted = thumbnail(picture)
    sheet.paste(fitted, (x + (TILE - fitted.width) // 2, y + (TILE - fitted.height) // 2))


def fitting(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    text = shown(" ".join(text[:1000].split()), 200)
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(text + "…") > TILE:
        text = text[:-1]
    return text + "…"
