"""Makes ControlNet maps of every picture in a folder; no library and no DT is needed.

    python examples/map_folder.py pictures maps --type canny --type depth

Each map has its picture's size and is kept, so a second run makes only what is new.  Canny needs no model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from luna_dt import Library, LunaError

ENDINGS = {".png", ".jpg", ".jpeg", ".webp"}


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("pictures", type=Path, help="the folder; those in it are looked into, too")
    words.add_argument("out", type=Path, help="where the maps go, in the same folders")
    words.add_argument("--home", type=Path, help="where maps are kept (LUNA_DT_HOME)")
    words.add_argument("--type", action="append", help="canny, depth, openpose …; may be given again (canny)")
    given = words.parse_args()
    failed = 0
    with Library(given.home) as library:
        for file in sorted(each for each in given.pictures.rglob("*") if each.suffix.lower() in ENDINGS):
            for kind in given.type or ["canny"]:
                target = given.out / file.relative_to(given.pictures).with_suffix(f".{kind}.png")
                try:
                    made = library.map(kind, file)
                except LunaError as error:
                    print(f"{file}: {error}")
                    failed += 1
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                made.picture.save(target)
                print(f"{target} {'was kept' if made.was_cached else 'is made'}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
