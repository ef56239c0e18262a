"""Trains the tiny CLIP that ships in luna_dt/models/tiny (about 45 minutes on two CPU cores).

    python tools/train_tiny.py [--minutes 42] [--out luna_dt/models/tiny]

It draws its own pictures and captions, so nothing is downloaded.  Two things are learned at once:
a caption that is true of a picture lies near it (contrastive, where every true caption counts as a
match), and the subject decides more than colour or place (a cosine classifier over the subjects,
shared by pictures and captions, and one of its own for the pooled vector, which has no projection).
Held-out precision is printed as it goes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import sys
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from luna_dt.demo.drawing import COLOURS, PLACES, SIZES, SUBJECTS, TEXTURES, Scene, draw, random_scene

PIXELS = 56
CONTEXT = 32
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": PIXELS, "layers": 5, "width": 128, "head_width": 32, "patch_size": 8, "mlp_ratio": 4.0},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 0, "width": 128, "heads": 4, "layers": 3},
}  # fmt: skip
FIELDS = ("subject", "colour", "texture", "background", "place", "size")
NAMES = [sorted(SUBJECTS), sorted(COLOURS), sorted(TEXTURES), sorted(COLOURS), sorted(PLACES), sorted(SIZES)]
OPENINGS = ("", "", "a ", "a picture of a ", "a drawing of a ", "the ", "one ")


def attributes(scene: Scene) -> list[int]:
    return [names.index(getattr(scene, field)) for field, names in zip(FIELDS, NAMES, strict=True)]


def wording(scene: Scene, rng: random.Random) -> tuple[str, list[int]]:
    """A caption that says all or only some of the scene, and what it says (-1: left open)."""
    said = attributes(scene)
    if rng.random() < 0.3:
        return scene.caption, said
    size, colour, place, ground = (rng.random() < 0.5 for _ in range(4))
    text = rng.choice(OPENINGS)
    text += f"{scene.size} " * size + f"{scene.colour} " * colour + scene.subject + f" {scene.place}" * place
    if ground:
        text += rng.choice(
            (f" on a {scene.texture} {scene.background} background", f", {scene.texture} {scene.background}")
        )
    keep = [True, colour, ground, ground, place, size]
    return text, [value if kept else -1 for value, kept in zip(said, keep, strict=True)]


def write_vocabulary(path: Path) -> None:
    """A byte-pair vocabulary in open_clip's own format, learned from the words that captions use."""
    rng = random.Random(0)
    corpus = [wording(random_scene(rng), rng)[0] for _ in range(4000)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", show_progress=False)
    )
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    lines = ["#version: luna-tiny"] + [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))


def pictures(count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    pixels = np.empty((count, PIXELS, PIXELS, 3), np.uint8)
    for i, scene in enumerate(scenes):
        # other aspect ratios are squashed to a square, as the visual layer does with every picture
        size = rng.choice(((PIXELS, PIXELS), (PIXELS, PIXELS), (PIXELS, 84), (84, PIXELS)))
        pixels[i] = np.asarray(draw(scene, size).resize((PIXELS, PIXELS), 3))
    return pixels, scenes


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - MEAN[0]) / STD[0]


class Subjects(torch.nn.Module):
    """A cosine classifier: which of the subjects a vector shows."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.centres = torch.nn.Parameter(torch.randn(len(SUBJECTS), dim) * dim**-0.5)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return 16 * F.normalize(vectors, dim=-1) @ F.normalize(self.centres, dim=-1).T


def both_outputs(clip: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    visual, projection = clip.visual, clip.visual.proj
    visual.proj = None
    pooled = visual(images)
    visual.proj = projection
    return pooled, pooled @ projection


@torch.no_grad()
def precision_at_10(clip: torch.nn.Module, tokenizer: SimpleTokenizer) -> dict[str, float]:
    clip.eval()
    rng = random.Random(99)
    pixels, scenes = pictures(1000, seed=98)
    pooled, projected = (F.normalize(v, dim=-1) for v in both_outputs(clip, to_tensor(pixels)))
    subjects = np.array([scene.subject for scene in scenes])
    captions = F.normalize(clip.encode_text(tokenizer([scene.caption for scene in scenes[:250]])), dim=-1)
    short = F.normalize(clip.encode_text(tokenizer([wording(s, rng)[0] for s in scenes[:250]])), dim=-1)

    def share(similarity: torch.Tensor, own: bool) -> float:
        if own:
            similarity.fill_diagonal_(-2)
        nearest = similarity.topk(10, dim=1).indices.numpy()
        return float((subjects[nearest] == subjects[: len(nearest), None]).mean())

    clip.train()
    return {
        "image_pooled": share(pooled @ pooled.T, own=True),
        "image_projected": share(projected @ projected.T, own=True),
        "caption": share(captions @ projected.T, own=False),
        "short_caption": share(short @ projected.T, own=False),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=42)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "luna_dt" / "models" / "tiny")
    options = parser.parse_args()
    torch.manual_seed(1)
    rng = random.Random(2)
    options.out.mkdir(parents=True, exist_ok=True)
    vocabulary = options.out / "bpe_vocabulary.txt.gz"
    write_vocabulary(vocabulary)
    tokenizer = SimpleTokenizer(bpe_path=str(vocabulary), context_length=CONTEXT)
    CONFIG["text_cfg"]["vocab_size"] = tokenizer.vocab_size
    clip = open_clip.CLIP(**CONFIG)
    print(f"{sum(p.numel() for p in clip.parameters()):,} parameters, {tokenizer.vocab_size} tokens", flush=True)

    pixels, scenes = pictures(options.pictures, seed=3)
    said = torch.tensor([attributes(scene) for scene in scenes])
    shared, pooled_head = Subjects(CONFIG["embed_dim"]), Subjects(CONFIG["vision_cfg"]["width"])
    parameters = [*clip.parameters(), *shared.parameters(), *pooled_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.rate, weight_decay=0.05, betas=(0.9, 0.98))
    start, step, spent, shown = time.monotonic(), 0, 0.0, 0.0
    while spent < 1:
        spent = (time.monotonic() - start) / (60 * options.minutes)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(spent, 1)))
        chosen = rng.sample(range(len(scenes)), options.batch)
        texts, claims = zip(*(wording(scenes[i], rng) for i in chosen), strict=True)
        truth, claim = said[chosen], torch.tensor(claims)
        true = ((claim[None] == truth[:, None]) | (claim[None] < 0)).all(-1)  # [picture, caption]
        with torch.autocast("cpu", torch.bfloat16):
            pooled, image = both_outputs(clip, to_tensor(pixels[chosen]))
            text = clip.encode_text(tokenizer(list(texts)))
        pooled, image, text = pooled.float(), image.float(), text.float()
        scores = clip.logit_scale.exp().clamp(max=50) * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        hits = scores.masked_fill(~true, -torch.inf)
        contrast = (scores.logsumexp(1) - hits.logsumexp(1)).mean() + (scores.logsumexp(0) - hits.logsumexp(0)).mean()
        subject = truth[:, 0]
        classified = sum(
            F.cross_entropy(logits, subject) for logits in (pooled_head(pooled), shared(image), shared(text))
        )
        loss = 0.5 * contrast + classified
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if spent - shown > 0.1:
            shown = spent
            measured = {name: round(value, 3) for name, value in precision_at_10(clip, tokenizer).items()}
            rate = step * options.batch / (time.monotonic() - start)
            print(
                f"{spent:4.0%} step {step} {rate:.0f}/s loss {loss.item():.3f} contrast {contrast.item():.3f} {measured}",
                flush=True,
            )

    weights = {name: value.half().contiguous() for name, value in clip.state_dict().items() if name != "attn_mask"}
    save_file(weights, options.out / "open_clip_model.safetensors")
    preprocess = {"size": PIXELS, "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": CONFIG, "preprocess_cfg": preprocess}
    (options.out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(json.dumps({"precision_at_10": precision_at_10(clip, tokenizer)}))


if __name__ == "__main__":
    main()
