"""Lists what a library has more than once, and proposes which of each group to keep: the best rated, then the largest.

    python examples/dedupe.py --similarity 0.99 --list spare.txt

Deletes nothing: the paths of all others go into the list, for you to look at and to deal with in DT.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from luna_dt import ImageRecord, Library, LunaError


def worth(record: ImageRecord) -> tuple[bool, int, int, int]:
    return record.favorite, record.rating or 0, record.width * record.height, -record.id


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--home", type=Path, help="the library's folder (LUNA_DT_HOME)")
    words.add_argument("--layer", default="visual", help="the layer that is compared (visual)")
    words.add_argument("--similarity", type=float, default=0.985, help="the cosine of near copies (0.985)")
    words.add_argument("--where", default="", help="only images that fit this query")
    words.add_argument("--list", type=Path, required=True, help="where the paths of what can go are written")
    given = words.parse_args()
    spare: dict[str, None] = {}
    with Library(given.home) as library:
        for group in library.duplicates(given.layer, given.similarity, given.where):
            best, *others = sorted((library.image(each) for each in group.ids), key=worth, reverse=True)
            print(f"keep {best.path}; {len(others)} {'exact copies' if group.exact else 'like it'}")
            spare |= dict.fromkeys(each.path for each in others)  # an image may be an exact copy and a near one
    given.list.write_text("".join(f"{path}\n" for path in spare), encoding="utf-8")
    print(f"{len(spare)} images are copies of a better one; their paths are in {given.list}")


if __name__ == "__main__":
    try:
        main()
    except LunaError as error:
        raise SystemExit(f"dedupe: {error}") from error
