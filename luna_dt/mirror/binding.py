"""A home belongs to one DT: what is mirrored from another, or from none of what was there, is asked about first.

DT's own name (``Health.library``) changes when a database is moved or restored, and other makers' servers have none; so
what decides is the pictures.  Ids are counted from 1 in every DT: another one has the same ids for other pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import PureWindowsPath

import numpy as np

from ..dt.catalog import Catalog
from ..errors import AnotherDT
from ..records import ImageRecord, Int64s
from ..store import Store

log = logging.getLogger(__name__)

PICTURES_COMPARED = 64  # pictures that are compared, the oldest among them
#: Of fewer images more than half may go without a question, as long as some stay.
FEW_IMAGES = 20


def must_be_ours(
    store: Store,
    catalog: Catalog,
    library: str,
    listed: tuple[Int64s, Int64s],
    accept: bool,
    leave: Callable[[], object],
) -> None:
    """Binds a new home to the DT that lists those images (ids, digests), and lets a home that has one on only with that.

    With ``accept`` another DT takes its place: ``leave`` is called first, then what is mirrored of the old one, and
    made here of its pictures, is given up.  Raises AnotherDT.
    """
    ids, digests = listed
    known, known_digests = store.digests("images")
    if len(known):
        shared, here, there = np.intersect1d(known, ids, assume_unique=True, return_indices=True)
        changed = shared[known_digests[here] != digests[there]]
        another = _another(store, catalog, library, shared, changed)
        gone = len(known) - len(shared)
        if not accept:
            _ask(catalog, another, gone, len(known), len(ids))
        if another:
            log.warning(
                "this home now belongs to the DT at %s: what was mirrored of another is given up", catalog.address
            )
            leave()
            store.drop("images", known)
    if library != store.dt():
        store.bind(library)


def too_many(gone: int, known: int) -> bool:
    """Whether so many images going at once, of so many, is to be asked about first."""
    return gone > 0 and (gone == known or (gone > known / 2 and known >= FEW_IMAGES))


def _ask(catalog: Catalog, another: str, gone: int, known: int, listed: int) -> None:
    """Raises AnotherDT where what would be given up is too much to be meant, saying what it is."""
    step = "if that is meant, have it so: luna-dt sync --accept, or Library.sync(accept=True)"
    if another:
        raise AnotherDT(
            f"the DT at {catalog.address} is another than the one that this home mirrors ({another}); nothing was "
            f"changed. Use another home for it (LUNA_DT_HOME); {step}"
        )
    if too_many(gone, known):
        raise AnotherDT(
            f"the DT at {catalog.address} has no more than {known - gone:,} of the {known:,} images that are mirrored here "
            f"(it lists {listed:,}); nothing was changed. If it is being restored, or the address or schema is wrong, "
            f"mend that; {step}"
        )


def _another(store: Store, catalog: Catalog, library: str, shared: Int64s, changed: Int64s) -> str:
    """How a DT shows that it is another one, in words; "" where it is the same as ever, or has nothing in common."""
    same_name = bool(library) and library == store.dt()
    if (same_name and catalog.lasting_ids) or len(changed) <= (len(shared) / 2 if same_name else 0):
        return ""
    sample = np.unique(
        np.concatenate([shared[: PICTURES_COMPARED // 2], shared[:: max(1, len(shared) * 2 // PICTURES_COMPARED)]])
    )
    other = _others(store, _there(catalog, sample[np.isin(sample, changed)]))
    return other[0] if 2 * len(other) > len(sample) else ""


def seems_another(store: Store, catalog: Catalog) -> str:
    """By what the DT shows, on a sample of the mirrored images, that it is another one; "" where it does not.

    Raises NotOffered where it cannot be asked, CatalogError.
    """
    ids = store.digests("images")[0]
    sample = ids[:: max(1, len(ids) // PICTURES_COMPARED)][:PICTURES_COMPARED]
    there = _there(catalog, sample) if len(sample) else {}
    if len(sample) and not there:
        return f"it has none of {len(sample)} images that are here"
    other = _others(store, there)
    return other[0] if 2 * len(other) > len(there) else ""


def _there(catalog: Catalog, ids: Int64s) -> dict[int, ImageRecord]:
    """Those of the images that DT has, as it has them."""
    records = (record for batch in catalog.fetch("images", ids) for record in batch.rows)
    return {record.id: record for record in records if isinstance(record, ImageRecord)}


def _others(store: Store, there: dict[int, ImageRecord]) -> list[str]:
    """Which of DT's images are other pictures than those that are mirrored here, in words."""
    here = store.images(there)
    return [
        f"its image {i} is {_words(there[i])}, here it is {_words(here[i])}"
        for i in sorted(here)
        if not _same_picture(here[i], there[i])
    ]


def _same_picture(a: ImageRecord, b: ImageRecord) -> bool:
    """Whether two records of one id may be one picture's: it may be renamed, dated or described anew, but not all of it.

    Its path alone says nothing: every ComfyUI has made a ComfyUI_00001_.png.
    """
    said = [(_name(a), _name(b)), (a.created, b.created)]
    if a.prompt or b.prompt or a.seed or b.seed:
        said.append((f"{a.seed} {a.prompt}", f"{b.seed} {b.prompt}"))
    known = [first == second for first, second in said if first or second]
    return sum(known) >= min(2, len(known))


def _words(record: ImageRecord) -> str:
    return ", ".join(filter(None, [_name(record), record.created, record.prompt[:40]]))


def _name(record: ImageRecord) -> str:
    return PureWindowsPath(record.path).name  # which knows both slashes
