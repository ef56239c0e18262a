"""Finds pictures by a text, among those that fit conditions.

    python examples/search_text.py "a red fox in the snow" --where "rating: > 6 size: landscape"

The conditions are in DT's query language.  Near copies are shown once; --like searches by a picture as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from luna_dt import Library, LunaError, Term


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("text")
    words.add_argument("--home", type=Path, help="the library's folder (LUNA_DT_HOME)")
    words.add_argument("--where", default="", help="only images that fit this query")
    words.add_argument("--like", type=Path, help="a picture that they are to be like as well")
    words.add_argument("--count", type=int, default=12, help="how many (12)")
    words.add_argument("--copies", type=float, default=0.98, help="the cosine from which two count as one (0.98)")
    given = words.parse_args()
    with Library(given.home) as library:
        terms = [Term(text=given.text, layer=library.text_layer())]
        if given.like:
            terms.append(Term(image=given.like))
        for hit in library.search(terms, where=given.where, top_k=given.count, collapse=given.copies):
            print(f"{hit.similarity:.3f}  {hit.image.path}  {hit.image.prompt[:80]}")


if __name__ == "__main__":
    try:
        main()
    except LunaError as error:
        raise SystemExit(f"search_text: {error}") from error
