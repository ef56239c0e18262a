"""Proving that a layer's vectors are what they are said to be: some are made again and compared.

Where they differ, the known other ways to make them are tried, then whether vectors lie at other images'
places; what was found is kept with the layer.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import BadInput, LunaError, NotFound, NotSearchable, WeightsError
from ..identity import DT_IDENTITIES, LOCAL_IDENTITIES, PIXELS, Identity, Verdict
from ..index.exact import Exact
from ..models import Encoders
from ..progress import Progress
from ..records import Float32s, now
from ..store import Layer, Store, no_vectors
from .embed import source_text, stream

log = logging.getLogger(__name__)

#: Cosines: from EXACT on nothing else need be tried; from CLOSE on a vector is its image's, made in this way (another
#: decoder or resizer gives 0.998 and more, half precision 0.9999, cropped pixels of a 2:3 picture 0.55 to 0.95).
EXACT, CLOSE = 0.999, 0.99
TRIED = 64  # sampled rows on which another way is tried
RUN_END = 16  # rows in a row that must be right for a wrong run to have ended


def verify(
    store: Store,
    encoders: Encoders,
    layer: str,
    picture: Callable[[int], Any],
    sample: int,
    progress: Progress,
) -> Verdict:
    """Makes ``sample`` stored vectors again, spread evenly over the layer, and says what fits.

    Raises NotSearchable when the layer is empty or none of their sources can be had, WeightsError when the
    model that the layer names is not here.
    """
    if sample < 1:
        raise BadInput(f"sample must be at least 1, not {sample}")
    check = _Check(store, encoders, layer, picture)
    verdict = _judged(check, layer, sample, progress)
    store.judge(check.layer, verdict)
    return verdict


def _judged(check: _Check, layer: str, sample: int, progress: Progress) -> Verdict:
    claim = check.layer.identity
    places = _spread(len(check.rows), sample)

    def tell(done: int) -> None:
        progress(f"verify.{layer}", done, len(places))

    tell(0)
    others = _alternatives(layer, claim)
    known = claim.architecture != "unknown"
    cosines = check.cosines(claim, places, tell) if known else np.zeros(len(places), np.float32)
    fits, by_fit = claim, cosines
    if not np.nanmin(cosines, initial=1) >= EXACT:
        tried = np.linspace(0, len(places) - 1, min(TRIED, len(places))).astype(int)
        best = _best(check, claim, others, places[tried], cosines[tried])
        if best != claim:
            fits, by_fit = best, check.cosines(best, places)
    if not known and fits == claim:
        by_fit = check.cosines(others[0], places)  # nothing fits; but what can be read is known
    having = ~(np.isnan(cosines) | np.isnan(by_fit))
    unreadable = int(np.count_nonzero(~having))
    if not having.any():
        raise NotSearchable(f"layer '{layer}' cannot be verified: {check.unreadable}")
    places, cosines, by_fit = places[having], cosines[having], by_fit[having]
    right = by_fit >= CLOSE
    verdict = Verdict(
        "match", claim, fits, len(cosines), float(cosines.mean()), float(cosines.min()), float(cosines.std()),
        float(by_fit.mean()), unreadable=unreadable, when=now(), cosines=tuple(cosines.tolist()),
    )  # fmt: skip
    if right.all():
        return dataclasses.replace(verdict, result="match" if fits == claim else "other")
    ways = [fits]
    if np.count_nonzero(right) * 2 < len(right):  # every row may lie at another's place, whatever made it
        ways = others
    found = {way: _displaced(check, way, places[~right]) for way in ways}
    way = max(found, key=lambda way: found[way][:2])
    count, _, shift = found[way]
    if count:
        fits = way
    elif len(ways) > 1:
        return dataclasses.replace(verdict, result="unknown", fits=None)
    wrong = check.cosines(fits, places) < CLOSE
    runs, to_their_ends = _runs(check, fits, places[wrong], budget=max(256, 8 * sample))
    return dataclasses.replace(verdict, result="rows", fits=fits, wrong=runs, shift=shift, wrong_is_all=to_their_ends)


class _Check:
    """A layer's stored vectors, in the order of their images' ids, and what they should be."""

    def __init__(self, store: Store, encoders: Encoders, layer: str, picture: Callable[[int], Any]) -> None:
        self._store, self._encoders, self._picture = store, encoders, picture
        self.layer: Layer = store.layer(layer)
        rows = np.flatnonzero(self.layer.ids >= 0)
        self.rows = rows[np.argsort(self.layer.ids[rows])]
        if not len(self.rows):
            raise no_vectors(layer)
        self.unreadable = ""

    def remade(self, identity: Identity, places: Sequence[int]) -> Iterator[Any]:
        """For each place its image's vector as that identity makes it; None where its source cannot be had."""
        tower = self._encoders.tower(identity)

        def prepared(place: int) -> Any:
            image_id = int(self.layer.ids[self.rows[place]])
            if identity.tower == "image":
                return tower.prepared(self._picture(image_id), identity)
            text = source_text(self.layer.name, self._store.image(image_id))
            if not text:
                raise NotFound(f"image {image_id} has no prompt")
            return tower.prepared(text, identity)

        with contextlib.closing(stream([tower], identity, places, prepared)) as results:
            for _, result in results:
                if isinstance(result, LunaError):
                    self.unreadable = str(result)
                yield None if isinstance(result, LunaError) else result

    def cosines(self, identity: Identity, places: Any, tell: Callable[[int], None] = lambda _: None) -> Float32s:
        """float32[n]: each stored vector beside the one made again; NaN where that cannot be made."""
        result = np.full(len(places), np.nan, np.float32)
        for i, made in enumerate(self.remade(identity, list(places))):
            tell(i + 1)
            if made is not None:
                stored = self.layer.vectors[self.rows[places[i]]]
                result[i] = made @ stored / np.linalg.norm(stored)
        return result


def _spread(rows: int, sample: int) -> Any:
    """``sample`` places out of ``rows``, one at random in each of as many equal parts; the same each time."""
    rng = random.Random(0)
    edges = np.linspace(0, rows, min(sample, rows) + 1).astype(int)
    return np.array([rng.randrange(a, b) for a, b in itertools.pairwise(edges)], np.int64)


def _alternatives(layer: str, claim: Identity) -> list[Identity]:
    """The claim first, then every known other way to make vectors of that dimension."""
    models: list[Any] = [claim] if claim.architecture != "unknown" else [DT_IDENTITIES[layer], LOCAL_IDENTITIES[layer]]
    found = {claim: None} if claim.architecture != "unknown" else {}
    for model in models:
        variants = [
            dataclasses.replace(model, pixels=pixels, output=output, dim=claim.dim, normalized=True, variant=variant)
            for variant in (("", "words") if model.is_sentence else ("", "half"))
            for output in (("pooled",) if model.is_sentence else ("pooled", "projected"))
            for pixels in (PIXELS if model.tower == "image" else ("",))
        ]
        # those nearest to the claim first, so that of two that fit alike the simpler is named
        variants.sort(
            key=lambda v: 2 * (v.variant != model.variant) + (v.output != model.output) + (v.pixels != model.pixels)
        )
        found.update(dict.fromkeys(variants))
    return list(found)


def _best(check: _Check, claim: Identity, others: list[Identity], places: Any, by_claim: Float32s) -> Identity:
    """The way that makes most of the vectors; another than the claim only if it is clearly the better one."""
    best, score = claim, _score(by_claim)
    missing: list[WeightsError] = []
    for other in others:
        if other == claim:
            continue
        try:
            found = _score(check.cosines(other, places))
        except WeightsError as error:  # this model has no such output, or an unknown layer's guess is not here
            log.info("%s was not tried: %s", other, error)
            missing.append(error)
            continue
        log.info("%s: %d of %d fit, mean cosine %.4f", other, found[0], len(places), found[1])
        if found[0] > score[0] or (found[0] == score[0] and 1 - found[1] < (1 - score[1]) / 4):
            best, score = other, found
    if claim.architecture == "unknown" and len(missing) == len(others):
        raise missing[-1]
    return best


def _score(cosines: Float32s) -> tuple[int, float]:
    having = cosines[~np.isnan(cosines)]
    return int(np.count_nonzero(having >= CLOSE)), float(having.mean()) if len(having) else -1.0


def _displaced(check: _Check, identity: Identity, wrong: Any) -> tuple[int, float, int]:
    """How many of the wrong places' images have their vector at another place, how close it is, and how many places
    further on the images are to which the vectors at the wrong places belong."""
    try:
        remade = list(check.remade(identity, list(wrong[:RUN_END])))
    except WeightsError as error:
        log.info("%s was not tried: %s", identity, error)
        return 0, 0.0, 0
    layer = check.layer
    exact = Exact(layer.vectors, layer.norms, layer.ids >= 0)
    place_of = np.empty(layer.rows, np.int64)
    place_of[check.rows] = np.arange(len(check.rows))
    offsets: collections.Counter[int] = collections.Counter()
    best = []
    for place, made in zip(wrong[:RUN_END], remade, strict=True):
        if made is None:
            continue
        rows, similarities = exact.query(made, RUN_END)
        places = place_of[rows[similarities >= max(CLOSE, similarities[0] - 1e-4)]]
        if len(places):  # equal prompts have equal vectors: the nearest one is meant
            offsets[int(min(place - places, key=abs))] += 1
            best.append(float(similarities[0]))
    if not offsets:
        return 0, 0.0, 0
    shift, count = offsets.most_common(1)[0]
    return count, sum(best) / len(best), shift


def _runs(check: _Check, identity: Identity, wrong: Any, budget: int) -> tuple[tuple[tuple[int, int], ...], bool]:
    """The runs of wrong rows around those found, as first and last image id, and whether all ends were reached."""
    judged = {int(place): True for place in wrong}
    complete = True
    for place in wrong.tolist():
        for direction in (-1, 1):
            at = place
            while True:
                step = [at + direction * i for i in range(1, RUN_END + 1)]
                step = [p for p in step if 0 <= p < len(check.rows)]
                new = [p for p in step if p not in judged]
                if len(new) > budget:
                    complete = False
                    break
                budget -= len(new)
                judged.update(zip(new, (check.cosines(identity, new) < CLOSE).tolist(), strict=True))
                if not any(judged[p] for p in step):
                    break
                at = step[-1]
    runs: list[list[int]] = []
    for place in sorted(place for place, bad in judged.items() if bad):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    ids = check.layer.ids[check.rows]
    return tuple((int(ids[first]), int(ids[last])) for first, last in runs), complete
