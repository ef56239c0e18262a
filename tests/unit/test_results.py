"""What is given of a search's hits: conditions, orders, pages, near copies, diversity; always against brute force."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luna_dt import Duplicates, Hit, Identity, Library, Settings, Term
from luna_dt.demo.database import TINY_IMAGE, TINY_JOINT, TINY_TEXT
from luna_dt.errors import BadInput, BadQuery, IdentityMismatch, NotSearchable, UnknownLayer
from luna_dt.records import Batch, Float32s, ImageRecord
from luna_dt.search.sampling import by_marginal_relevance
from luna_dt.store import Store
from tests.conftest import unit_vectors

COUNT, DISTINCT = 400, 60
SHARES = [COUNT, COUNT // 2, COUNT // 10, COUNT // 100, 1]  # of images that fit a condition


def repeating(dim: int, seed: int = 1) -> Float32s:
    """Vectors that repeat as prompts do, the most frequent a third of all; some beside them at cosine .999."""
    rng = np.random.default_rng(seed)
    of = np.minimum(rng.zipf(1.5, COUNT) - 1, DISTINCT - 1)
    vectors = unit_vectors(DISTINCT, dim, seed)[of]
    moved = rng.random(COUNT) < 0.2
    vectors[moved] += 0.045 * unit_vectors(int(moved.sum()), dim, seed + 1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def record(i: int, steps: int, **changes: Any) -> ImageRecord:
    rating = None if i % 5 == 0 else i % 10 + 1
    made: dict[str, Any] = {
        "for_deletion": i % 11 == 0,
        "prompt": f"prompt {i % 9}",
        "seed": i % 4,
        "rating": rating,
        "created": f"2026-01-{i % 28 + 1:02}T10:00:00",
    }
    return ImageRecord(i, f"D:\\Bilder\\{i}.png", steps=steps, **{**made, **changes})


def file_of(i: int) -> str:
    """Five images in a row are of one file, but every third is of none that is known."""
    return f"{i // 5:064x}" if i % 3 else ""


class Filled:
    """A library of images that repeat, every eleventh hidden, with the truth about it."""

    def __init__(self, home: Path) -> None:
        self.vectors = {"visual": repeating(TINY_IMAGE.dim), "style": repeating(TINY_JOINT.dim, 5)}
        self.ids = np.arange(1, COUNT + 1, dtype=np.int64)
        self.steps = np.random.default_rng(3).permutation(COUNT) + 1  # so "steps: 1-40" are any 40
        self.records = [record(int(i), int(self.steps[i - 1]), hash=file_of(int(i))) for i in self.ids]
        self.visible = self.ids % 11 != 0
        self.store = Store(home)
        self.put("images", self.records)
        for layer, identity in (("visual", TINY_IMAGE), ("style", TINY_JOINT)):
            self.store.prepare_layer(layer, identity)
            self.put(f"embeddings.{layer}", self.vectors[layer])
        self.library = Library(home, dt="http://127.0.0.1:9")

    def put(self, kind: str, rows: Any) -> None:
        self.store.put(kind, Batch(self.ids, np.ones(COUNT, np.int64), rows))
        self.store.finish(kind, "a test")

    def check(self, hits: list[Hit], scores: Float32s, fits: Any, k: int) -> None:
        """Whether hits are ``k`` best of those that fit; which of equal ones come is the engine's."""
        best = np.sort(scores[fits & self.visible])[::-1][:k]
        np.testing.assert_allclose([hit.similarity for hit in hits], best, atol=1e-5)
        np.testing.assert_allclose([scores[hit.id - 1] for hit in hits], best, atol=1e-5)
        assert len({hit.id for hit in hits}) == len(hits)
        assert all(fits[hit.id - 1] and self.visible[hit.id - 1] for hit in hits)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    made = Filled(tmp_path_factory.mktemp("filled"))
    with made.library:
        yield made
    made.store.close()


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


# -- conditions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("way", ["image", "image_id", "vector", "text", "terms", "two layers"])
def test_every_search_finds_the_best_of_what_fits(filled: Filled, way: str, share: int) -> None:
    library, visual, style = filled.library, filled.vectors["visual"], filled.vectors["style"]
    asked: dict[str, Any] = {"exclude_source": False}
    if way == "image":
        asked["image"] = PICTURE
        truth = visual @ library.encoders.pictures(TINY_IMAGE, [PICTURE])[0]
    elif way == "image_id":
        asked["image_id"], truth = 7, visual @ visual[6]
    elif way == "vector":
        asked["vector"], truth = visual[20], visual @ visual[20]
    elif way == "text":
        asked["text"], truth = "a red cat", style @ library.encoders.texts(TINY_TEXT, ["a red cat"])[0]
    elif way == "terms":
        asked["image"] = [Term(image_id=3), Term(image_id=9, weight=-0.5)]
        truth = (visual @ visual[2] - 0.5 * visual @ visual[8]) / 1.5
    else:
        asked["image"] = [Term(image_id=3), Term(image_id=9, layer="style", weight=3)]
        truth = (visual @ visual[2] + 3 * style @ style[8]) / 4
    for k in (1, 10, COUNT):
        hits = library.search(**asked, where=f"steps: 1-{share}", top_k=k)
        filled.check(hits, truth, filled.steps <= share, k)


def test_a_condition_leaves_the_source_and_the_excluded_out_as_well(filled: Filled) -> None:
    visual = filled.vectors["visual"]
    some = filled.ids[(filled.steps <= 40) & filled.visible]
    gone = some[:5].tolist()
    hits = filled.library.search(image_id=int(some[7]), where="steps: 1-40", exclude=gone, top_k=COUNT)
    fits = (filled.steps <= 40) & ~np.isin(filled.ids, [*gone, some[7]])
    filled.check(hits, visual @ visual[some[7] - 1], fits, COUNT)


def test_no_image_that_fits_is_no_hit_and_what_dt_hides_never_fits(filled: Filled) -> None:
    assert filled.library.search(image_id=1, where="steps: 9999") == []
    assert filled.library.search(image_id=1, where="delete: true") == []
    assert filled.library.search(image_id=1, where="  ", top_k=3) == filled.library.search(image_id=1, top_k=3)


def test_a_query_that_cannot_be_read_is_told_before_anything_is_encoded(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filled.library.encoders, "pictures", None)
    with pytest.raises(BadQuery, match="size"):
        filled.library.search(PICTURE, where="size: huge")
    with pytest.raises(BadInput, match="too large"):
        filled.library.search(PICTURE, where=f"seed: {10**30}")


def test_conditions_need_the_mirror(library: Library, filled: Filled) -> None:
    with pytest.raises(BadInput, match="not DT's"):
        filled.library.search(image_id=1, where="cat", engine="dt")
    store = Store(library.settings.home)
    store.prepare_layer("visual", TINY_IMAGE, local=True)
    store.put("embeddings.visual", Batch(np.array([1]), np.array([1]), unit_vectors(1, TINY_IMAGE.dim)))
    for asked in ({"where": "cat"}, {"collapse": "seed"}, {"collapse": "file"}, {"order": "date", "min_similarity": 0}):
        with pytest.raises(NotSearchable, match="not synced"):
            library.search(image_id=1, **asked)
    for layer in ("visual", None):
        with pytest.raises(NotSearchable, match="not synced"):
            library.duplicates(layer, where="cat")
    with pytest.raises(NotSearchable, match="holds no vectors"):
        filled.library.search(image_id=1, layer="negative", where="steps: 1-9")
    store.close()


# -- orders and pages ---------------------------------------------------------------------------------


def keys(hits: list[Hit], order: str) -> list[Any]:
    return [h.image.created if order == "date" else h.image.rating or 0 for h in hits]


@pytest.mark.parametrize("order", ["date", "rating"])
@pytest.mark.parametrize("where", ["", "steps: 1-100"])
@pytest.mark.parametrize("least", [-0.9, 0.1, 0.9])
def test_orders_are_of_all_that_is_similar_enough(filled: Filled, order: Any, where: str, least: float) -> None:
    visual = filled.vectors["visual"]
    truth = visual @ visual[6]
    fits = filled.visible & (truth >= least) & ((filled.steps <= 100) | (not where)) & (filled.ids != 7)
    wanted = [filled.records[i] for i in np.flatnonzero(fits)]
    hits = filled.library.search(image_id=7, order=order, where=where, min_similarity=least, top_k=COUNT)
    assert {hit.id for hit in hits} == {each.id for each in wanted}
    found = list(zip(keys(hits, order), (round(hit.similarity, 5) for hit in hits), strict=True))
    assert found == sorted(found, reverse=True)  # of equal ones the more similar first
    pages = [
        filled.library.search(image_id=7, order=order, where=where, min_similarity=least, top_k=7, offset=at)
        for at in range(0, len(hits) + 7, 7)
    ]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in hits]


@pytest.mark.parametrize("where", ["", "steps: 1-300"])
@pytest.mark.parametrize("asked", [{}, {"collapse": 0.99}, {"collapse": "seed"}, {"collapse": "file"}])
def test_pages_follow_each_other(filled: Filled, asked: dict[str, Any], where: str) -> None:
    whole = filled.library.search(image_id=7, where=where, top_k=COUNT, **asked)
    pages = [
        filled.library.search(image_id=7, where=where, top_k=9, offset=at, **asked)
        for at in range(0, len(whole) + 9, 9)
    ]
    assert [hit.id for page in pages for hit in page] == [hit.id for hit in whole]
    assert pages[-1] == []


def test_dt_gives_pages_as_well(server: str, tmp_path: Path) -> None:
    with Library(tmp_path, dt=server) as library:
        whole = library.search(image_id=31, top_k=9, engine="dt", exclude=[3])
        pages = [library.search(image_id=31, top_k=3, offset=at, engine="dt", exclude=[3]) for at in (0, 3, 6)]
        assert [hit.id for page in pages for hit in page] == [hit.id for hit in whole]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"order": "size"}, "no order"),
        ({"order": "date"}, "min_similarity"),
        ({"offset": -1}, "offset"),
        ({"collapse": 1.5}, "collapse"),
        ({"collapse": "hash"}, "collapse"),
        ({"collapse": float("nan")}, "collapse"),
        ({"diverse": 1.1}, "diverse"),
        ({"diverse": float("nan")}, "diverse"),
        ({"diverse": 0.5, "offset": 10}, "order of their own"),
        ({"diverse": 0.5, "order": "date", "min_similarity": 0}, "order of their own"),
        ({"diverse": 0.5, "top_k": 2000}, "at most 1,000"),
        *(({"top_k": number}, "top_k must be a whole number of at least 1") for number in (0, 5.0, "5", None)),
        ({"offset": 2.5}, "offset must be a whole number of at least 0"),
        *(({"min_similarity": number}, "min_similarity is a cosine") for number in (float("nan"), "0.5", None)),
        ({"engine": "dt", "diverse": 0.5}, "not DT's"),
        ({"engine": "dt", "collapse": 0.9}, "not DT's"),
    ],
)
def test_what_cannot_be_wanted_is_told(filled: Filled, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        filled.library.search(image_id=7, **asked)


# -- near copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["", "steps: 1-200"])
@pytest.mark.parametrize("top_k", [3, 12, COUNT])
@pytest.mark.parametrize("least", [1.0, 0.99, 0.3])
def test_of_near_copies_the_best_stays(filled: Filled, where: str, top_k: int, least: float) -> None:
    visual = filled.vectors["visual"]
    asked: dict[str, Any] = {"vector": visual[6], "where": where, "collapse": least}
    hits = filled.library.search(**asked, top_k=top_k)
    fits = filled.visible & ((filled.steps <= 200) | (not where))
    everything = filled.library.search(vector=visual[6], where=where, top_k=COUNT)
    leaders: dict[int, int] = {}  # as one would do by hand
    for hit in everything:
        like = [i for i in leaders if visual[i - 1] @ visual[hit.id - 1] >= least - 1e-6]
        leader = like[0] if like else hit.id
        leaders[leader] = leaders.get(leader, 0) + 1
    assert len(hits) == min(top_k, len(leaders))
    np.testing.assert_allclose(
        [hit.similarity for hit in hits], [visual[6] @ visual[i - 1] for i in leaders][:top_k], atol=1e-5
    )
    of = visual[[hit.id - 1 for hit in hits]]
    assert np.all(np.triu(of @ of.T, 1) < least)
    if top_k == COUNT:
        assert [hit.stands_for for hit in hits] == list(leaders.values())
        assert sum(hit.stands_for for hit in hits) == np.count_nonzero(fits)
    assert filled.library.search(**asked, top_k=top_k) == hits


def test_collapsing_looks_on_until_enough_are_found(library: Library) -> None:
    """Most of a library is one picture; the others are behind it."""
    count, other = 3000, 2990
    vectors = np.tile(unit_vectors(1), (count, 1))
    vectors[other:] = unit_vectors(count - other, seed=4)
    with_copies(library, vectors)
    hits = library.search(vector=vectors[0], top_k=8, collapse=0.999)
    assert hits[0].stands_for == other
    assert hits[0].caption == f"1.000   id {hits[0].id}   and {other - 1} like it"
    assert hits[0].to_json()["stands_for"] == other
    truth = np.sort(vectors[other:] @ vectors[0])[::-1][:7]
    np.testing.assert_allclose([hit.similarity for hit in hits[1:]], truth, atol=1e-5)
    assert [hit.stands_for for hit in hits[1:]] == [1] * 7
    assert "stands_for" not in hits[1].to_json()
    near = library.search(vector=vectors[0], top_k=8, collapse=0.999, min_similarity=0.9)
    assert [hit.stands_for for hit in near] == [other]


def with_copies(library: Library, vectors: Float32s, layer: str = "visual", **changes: Any) -> None:
    store = Store(library.settings.home)
    ids = np.arange(1, len(vectors) + 1, dtype=np.int64)
    ones = np.ones(len(ids), np.int64)
    store.put("images", Batch(ids, ones, [record(int(i), 1, **{"for_deletion": False, **changes}) for i in ids]))
    store.prepare_layer(layer, Identity("test", "", "image", "pooled", "squash", vectors.shape[1]))
    store.put(f"embeddings.{layer}", Batch(ids, ones, vectors))
    for kind in ("images", f"embeddings.{layer}"):
        store.finish(kind, "a test")
    store.close()


def in_common(each: ImageRecord, by: str) -> Any:
    """What an image has in common with others, itself where that is not known."""
    return ((each.prompt, each.seed) if each.seed else each.id) if by == "seed" else each.hash or each.id


@pytest.mark.parametrize("by", ["seed", "file"])
def test_images_of_one_prompt_and_seed_or_of_one_file_are_one(filled: Filled, by: Any) -> None:
    hits = filled.library.search(image_id=7, collapse=by, top_k=COUNT, exclude_source=False)
    shown = [each for each in filled.records if filled.visible[each.id - 1]]
    groups: dict[Any, list[int]] = {}
    for each in shown:
        groups.setdefault(in_common(each, by), []).append(each.id)
    assert len(hits) == len(groups) < len(shown)
    truth = filled.vectors["visual"] @ filled.vectors["visual"][6]
    for hit in hits:
        group = groups[in_common(hit.image, by)]
        assert hit.stands_for == len(group)
        assert hit.similarity == pytest.approx(max(truth[i - 1] for i in group), abs=1e-5)
    few = filled.library.search(image_id=7, collapse=by, top_k=5, exclude_source=False)
    assert [hit.similarity for hit in few] == [hit.similarity for hit in hits[:5]]


def test_an_image_without_a_prompt_a_hash_or_a_vector_is_like_no_other(library: Library) -> None:
    with_copies(library, np.tile(unit_vectors(1), (20, 1)), prompt="", seed=5)
    assert len(library.search(image_id=1, collapse="seed", top_k=30)) == 19
    assert len(library.search(image_id=1, collapse="file", top_k=30)) == 19
    with_copies(library, unit_vectors(10, seed=2), layer="style", prompt="", seed=5)
    terms = [Term(image_id=1, layer="style"), Term(image_id=1, weight=0.1)]
    hits = library.search(terms, collapse=0.9, top_k=30, exclude_source=False)
    assert len(hits) == 20  # ten of them have no vector in the first term's layer
    assert len(library.search(terms[::-1], collapse=0.9, top_k=30)) == 1
    assert len(library.search(terms, diverse=0.5, top_k=30)) == 19


def test_collapsing_keeps_the_first_of_the_order(filled: Filled) -> None:
    asked: dict[str, Any] = {"image_id": 7, "order": "rating", "min_similarity": -0.99, "top_k": COUNT}
    whole = filled.library.search(**asked)
    hits = filled.library.search(**asked, collapse=0.999999)
    first: list[Hit] = []
    visual = filled.vectors["visual"]
    for hit in whole:
        if all(visual[hit.id - 1] @ visual[each.id - 1] < 0.999998 for each in first):
            first.append(hit)
    assert [hit.id for hit in hits] == [hit.id for hit in first]


# -- diversity ----------------------------------------------------------------------------------------


def by_hand(similarities: Float32s, units: Float32s, diverse: float, limit: int) -> list[int]:
    chosen = [int(np.argmax(similarities))]
    while len(chosen) < min(limit, len(units)):
        left = [i for i in range(len(units)) if i not in chosen]
        worth = [(1 - diverse) * similarities[i] - diverse * max(units[i] @ units[j] for j in chosen) for i in left]
        chosen.append(left[int(np.argmax(worth))])
    return chosen


@pytest.mark.parametrize("diverse", [0.01, 0.5, 1.0])
def test_marginal_relevance_is_what_its_authors_say(diverse: float) -> None:
    units = unit_vectors(40, 8)
    similarities = np.sort(units @ unit_vectors(1, 8, seed=9)[0])[::-1].astype(np.float32)
    assert by_marginal_relevance(similarities.copy(), units, diverse, 12).tolist() == by_hand(
        similarities, units, diverse, 12
    )
    assert sorted(by_marginal_relevance(similarities.copy(), units, diverse, 99).tolist()) == list(range(40))
    assert by_marginal_relevance(similarities[:0], units[:0], diverse, 3).tolist() == []


@pytest.mark.parametrize("where", ["", "steps: 1-100"])
def test_diverse_hits_begin_with_the_best_and_differ(filled: Filled, where: str) -> None:
    visual = filled.vectors["visual"]
    asked: dict[str, Any] = {"vector": visual[6] + visual[20] + unit_vectors(1, TINY_IMAGE.dim, 7)[0], "where": where}

    def alikeness(hits: list[Hit]) -> float:
        of = visual[[hit.id - 1 for hit in hits]]
        return float(np.triu(of @ of.T, 1).max())

    pool = filled.library.search(**asked, top_k=50)
    units, scores = visual[[hit.id - 1 for hit in pool]], np.array([hit.similarity for hit in pool], np.float32)
    for diverse in (0.1, 0.6, 0.9):
        hits = filled.library.search(**asked, top_k=8, diverse=diverse)
        assert len({hit.id for hit in hits}) == 8
        assert hits[0].similarity == pool[0].similarity
        want = by_hand(scores, units, diverse, 4)  # more would depend on which of equal ones came first
        np.testing.assert_allclose([hit.similarity for hit in hits[:4]], scores[want], atol=1e-4)
    near = filled.library.search(**asked, top_k=8, diverse=0.9, min_similarity=0.5)
    assert all(hit.similarity >= 0.5 for hit in near)
    both = filled.library.search(**asked, top_k=8, diverse=0.1, collapse=0.99)
    assert alikeness(both) < 0.99


# -- which layer --------------------------------------------------------------------------------------


def test_a_text_finds_its_layer(filled: Filled, library: Library, tmp_path: Path) -> None:
    assert filled.library.text_layer() == "style"  # of pictures, in the space of texts
    named = filled.library.search(text="a cat", layer="style", top_k=3)
    assert filled.library.search(text="a cat", top_k=3) == named
    with pytest.raises(IdentityMismatch, match=r"before the projection.*searched by a text: style$"):
        filled.library.search(text="a cat", layer="visual")

    store = Store(library.settings.home)
    assert library.text_layer() == "semantic"  # DT's
    with pytest.raises(NotSearchable, match="'semantic' is not synced"):
        library.search(text="a cat")
    one = Batch(np.array([1]), np.array([1]), unit_vectors(1, TINY_TEXT.dim))
    for layer, identity in (("visual", TINY_IMAGE), ("negative", TINY_TEXT), ("semantic", TINY_TEXT)):
        store.prepare_layer(layer, identity)
        store.put(f"embeddings.{layer}", Batch(one.ids, one.digests, unit_vectors(1, identity.dim)))
        store.finish(f"embeddings.{layer}", "a test")
        expected = {"visual": "visual", "negative": "negative", "semantic": "semantic"}[layer]
        assert library.text_layer() == expected
        if layer == "visual":
            with pytest.raises(IdentityMismatch, match=r"before the projection.*none \(luna-dt sync"):
                library.search(text="a cat")
    store.prepare_layer("composition", TINY_JOINT, local=True)
    assert library.text_layer() == "semantic"  # it holds nothing yet
    store.put("embeddings.composition", one)
    assert library.text_layer() == "composition"
    with pytest.raises(IdentityMismatch, match="composition, semantic, negative"):
        library.search(text="a cat", layer="visual")
    store.close()


def test_a_search_is_explained(filled: Filled) -> None:
    shown = int(filled.visible.sum())
    assert filled.library.explain().startswith(f"layer visual: {shown} images, by the engine ")
    fit = int((filled.visible & (filled.steps <= 40)).sum())
    assert f"{shown} images, of which {fit} fit the condition" in filled.library.explain("style", "steps: 1-40")
    with pytest.raises(BadQuery):
        filled.library.explain("visual", "size: huge")


# -- duplicates ---------------------------------------------------------------------------------------


def joined_by_hand(vectors: Float32s, ids: Any, similarity: float) -> set[frozenset[int]]:
    links = vectors @ vectors.T >= similarity - 1e-6
    todo, groups = set(range(len(ids))), set()
    while todo:
        group, edge = set(), {todo.pop()}
        while edge:
            group |= edge
            edge = set(np.flatnonzero(links[sorted(edge)].any(axis=0)).tolist()) - group
        todo -= group
        if len(group) > 1:
            groups.add(frozenset(int(ids[i]) for i in group))
    return groups


@pytest.mark.parametrize("similarity", [1.0, 0.9985, 0.985, 0.4])
@pytest.mark.parametrize("where", ["", "steps: 1-200", "steps: 1"])
def test_duplicates_are_the_groups_that_links_make(filled: Filled, where: str, similarity: float) -> None:
    heard: list[tuple[str, int, int]] = []
    found = filled.library.duplicates("visual", similarity, where, lambda *told: heard.append(told))
    fits = filled.visible & (filled.steps <= {"": COUNT, "steps: 1": 1}.get(where, 200))
    vectors = filled.vectors["visual"]
    files: dict[str, list[int]] = {}
    for i in filled.ids[fits].tolist():
        files.setdefault(file_of(i) or str(i), []).append(i)
    exact = {frozenset(each.ids) for each in found if each.exact}
    assert exact == {frozenset(group) for group in files.values() if len(group) > 1}
    assert exact == {frozenset(each.ids) for each in filled.library.duplicates(None, where=where)}
    joined = (
        {next(i for i in files[file_of(each) or str(each)] if i in group) for each in group}
        for group in joined_by_hand(vectors[fits], filled.ids[fits], similarity)
    )
    assert {frozenset(each.ids) for each in found if not each.exact} == {frozenset(g) for g in joined if len(g) > 1}
    assert [len(each.ids) for each in found] == sorted((len(each.ids) for each in found), reverse=True)
    for each in found:
        of = vectors[[i - 1 for i in each.ids]]
        assert list(each.ids) == sorted(each.ids)
        least = 1.0 if each.exact else min(1.0, float((of @ of[0]).min()))
        assert each.similarity == pytest.approx(least, abs=1e-5)
    assert all(done <= total and kind == "duplicates.visual" for kind, done, total in heard)


def test_groups_of_many_equal_images_are_joined_to_what_is_near_them(library: Library) -> None:
    vectors = np.tile(unit_vectors(1), (500, 1))
    vectors[250:] += 0.02 * unit_vectors(1, seed=8)
    vectors[400:] = unit_vectors(100, seed=9)
    with_copies(library, vectors)
    apart, together = library.duplicates(similarity=1), library.duplicates(similarity=0.99)
    assert [len(each.ids) for each in apart] == [250, 150]
    assert [len(each.ids) for each in together] == [400]
    assert 0.99 < together[0].similarity < 1
    assert len(library.images(limit=1000)) == 500  # nothing is deleted


def test_what_has_no_duplicates_is_told(library: Library, filled: Filled) -> None:
    with pytest.raises(BadInput, match="similarity"):
        filled.library.duplicates(similarity=1.5)
    with pytest.raises(UnknownLayer):
        filled.library.duplicates("smell")
    for layer in ("visual", None):
        with pytest.raises(NotSearchable):
            library.duplicates(layer)
    with_copies(library, unit_vectors(30))
    assert library.duplicates() == []


def test_exact_copies_take_no_vectors_and_are_of_what_is_not_hidden(library: Library) -> None:
    images = [record(i, i, hash="ab" * 32 if i < 5 else "cd" * 32, for_deletion=i in (4, 6)) for i in range(1, 8)]
    with closing(Store(library.settings.home)) as store:
        store.put("images", Batch(np.arange(1, 8), np.ones(7, np.int64), images))
        store.finish("images", "a test")
    assert library.duplicates(None) == [Duplicates((1, 2, 3), 1.0, exact=True), Duplicates((5, 7), 1.0, exact=True)]
    assert library.duplicates(None, where="steps: 2-6") == [Duplicates((2, 3), 1.0, exact=True)]
    assert library.duplicates(None, where="delete: true") == []
    with pytest.raises(BadQuery):
        library.duplicates(None, where="size: huge")
    with pytest.raises(NotSearchable, match="luna-dt embed"):
        library.duplicates()


def test_a_library_on_a_server_says_where_layers_are_read_as_a_whole(tmp_path: Path) -> None:
    with Library(settings=Settings(home=tmp_path, index="milvus+http://127.0.0.1:9")) as library:
        for ask in (library.duplicates, lambda: library.duplicates(None), lambda: library.nearest(unit_vectors(1)[0])):
            with pytest.raises(NotSearchable, match="copy --back"):
                ask()
