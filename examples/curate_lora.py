"""Makes a training set for a LoRA out of a cluster: good pictures, as different from each other as possible.

    python examples/curate_lora.py "Luna" --count 30 --trigger lunagirl --out training

Each picture is copied as PNG, with its caption beside it as .txt, as trainers read it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from luna_dt import Library, LunaError


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("cluster", help="a cluster's name, or its id")
    words.add_argument("--home", type=Path, help="the library's folder (LUNA_DT_HOME)")
    words.add_argument("--count", type=int, default=30, help="how many pictures (30)")
    words.add_argument("--min-quality", type=float, default=0, help="0 to 5, half of DT's rating (0)")
    words.add_argument("--sort", default="diverse", choices=("diverse", "quality", "confidence", "random"))
    words.add_argument("--trigger", default="", help="a word that each caption begins with")
    words.add_argument("--out", type=Path, required=True, help="a folder; made if need be")
    given = words.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with Library(given.home) as library:
        named = [each for each in library.clusters() if given.cluster in (each.name, str(each.id))]
        if not named:
            raise SystemExit(f"there is no cluster '{given.cluster}': " + ", ".join(c.name for c in library.clusters()))
        members = library.cluster_images(named[0].id, given.count, given.min_quality, given.sort)
        prompts = {each.image.id: each.image.prompt for each in members}
        for image_id, picture, why_not in library.pictures(prompts):
            if picture is None:
                print(f"image {image_id} is left out: {why_not}")
                continue
            caption = library.captions(image_id).combined or prompts[image_id]
            picture.save(given.out / f"{image_id}.png")
            line = ", ".join(part for part in (given.trigger, " ".join(caption.split())) if part)
            (given.out / f"{image_id}.txt").write_text(line, encoding="utf-8")
            print(f"image {image_id}: {line[:100]}")


if __name__ == "__main__":
    try:
        main()
    except LunaError as error:
        raise SystemExit(f"curate_lora: {error}") from error
