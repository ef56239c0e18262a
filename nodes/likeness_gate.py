"""Luna DT Likeness Gate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..luna_dt.errors import BadInput
from ..luna_dt.ids import parse_ids
from ..luna_dt.pixels import read_pictures
from ..luna_dt.records import Float32s
from . import clusters, host, inputs, pictures, shared

if TYPE_CHECKING:
    import torch

    from ..luna_dt import Identity, Library

NO_CLUSTER = "none"
MOST_REFERENCES = 1000  # of a cluster that are compared with, the surest
NO_SCORE = -1.0  # of a picture whose values are no numbers


class LunaDTLikenessGate:
    """Lets pass the pictures that are like enough to references, and gives the others apart."""

    TITLE = "Luna DT Likeness Gate"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Compares pictures with references: a picture, images of DT, or one of its clusters. Those that are like enough "
        "pass, the others come out below; where none is left for an output, what follows it is skipped."
    )
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING", "FLOAT", "INT", "INT")
    RETURN_NAMES = ("like", "others", "report", "scores", "like_count", "others_count")
    OUTPUT_TOOLTIPS = (
        "Those that are like enough, in their order.",
        "The others, in their order.",
        "How many passed, and each one's score.",
        "Each picture's score, a cosine, in their order.",
        "How many passed.",
        "How many did not.",
    )
    OUTPUT_IS_LIST = (True, True, False, True, False, False)
    INPUT_IS_LIST = True  # references of several sizes come as a list, which are one choice all the same
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures to choose from."}),
                "layer": inputs.layer("The layer to compare in; visual is how it looks."),
                "threshold": (
                    "FLOAT",
                    {
                        "default": 0.7,
                        "min": -1.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "The least likeness that passes, a cosine; -1: any.",
                    },
                ),
                "best": (
                    "INT",
                    {"default": 0, "min": 0, "max": 4096, "tooltip": "At most so many pass, the likest; 0: all."},
                ),
            },
            "optional": {
                "references": ("IMAGE", {"tooltip": "Pictures to compare with."}),
                "reference_ids": inputs.text("Images of DT to compare with: 12, 15-20; or a query in DT's language."),
                "cluster": (
                    "COMBO",
                    {
                        "options": [NO_CLUSTER, *clusters.listed()],
                        "default": NO_CLUSTER,
                        "tooltip": "A cluster of DT to compare with: a person or character.",
                    },
                ),
                "compare": (
                    ["closest", "mean"],
                    {"default": "closest", "tooltip": "With the closest reference, or with their mean."},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, cluster: Any = None) -> str | Literal[True]:  # noqa: N802
        """Lets through what is in the list no more: the run refuses it by its name."""
        for label in cluster if isinstance(cluster, list) else [cluster]:
            if label not in (None, NO_CLUSTER):
                try:
                    clusters.cluster_id(label)
                except BadInput as error:
                    return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, layer: Any = None, reference_ids: Any = ("",), **_: Any) -> str:  # noqa: N802
        name = layer[0] if isinstance(layer, list) and layer else "visual"
        text = reference_ids[0]
        query = "" if text and parse_ids(text) is not None else text
        return shared.fingerprint_of_query(shared.library(), query, f"embeddings.{name}", "clusters", "images")

    def run(
        self,
        images: list[torch.Tensor],
        layer: list[str],
        threshold: list[float],
        best: list[int],
        references: list[torch.Tensor] | None = None,
        reference_ids: list[str] | None = None,
        cluster: list[str] | None = None,
        compare: list[str] | None = None,
    ) -> dict[str, Any]:
        import numpy as np

        library = shared.library()
        identity = library.identity(layer[0])
        ids = [*_ids((reference_ids or [""])[0], library), *_members((cluster or [NO_CLUSTER])[0], library)]
        if not references and not ids:
            raise BadInput("there is nothing to compare with; give references, reference_ids or a cluster")
        units = [*_of_pictures(library, identity, references or ()), *_of_ids(library, identity, layer[0], ids)]
        against = np.stack(units)
        if (compare or ["closest"])[0] == "mean":
            against = _unit(against.mean(axis=0))[None]
        each = [one for batch in images for one in batch]
        scores = [self._score(library, identity, one, against) for one in host.each(each)]
        order = sorted(range(len(each)), key=lambda i: -scores[i])
        passing = [i for i in order if scores[i] >= threshold[0] and each[i].isfinite().all()]
        like = set(passing[: best[0] or None])
        wanted = f"at least {threshold[0]:g}" + (f", the best {best[0]}" if best[0] else "")
        told = ", ".join(f"{score:.3f}{' *' if i in like else ''}" for i, score in enumerate(scores))
        report = f"{len(like)} of {len(each)} are like enough ({wanted}): {told}"
        groups = [[i for i in order if i in like], [i for i in order if i not in like]]
        return {
            "ui": {**_sheet(each, scores, groups), "text": [report]},
            "result": (
                _chosen(images, like, True), _chosen(images, like, False), report, scores, len(like), len(each) - len(like),
            ),
        }  # fmt: skip

    def _score(self, library: Library, identity: Identity, one: torch.Tensor, against: Float32s) -> float:
        if not one.isfinite().all():
            return NO_SCORE
        return float((against @ library.encoders.pictures(identity, read_pictures(one))[0]).max())


def _ids(text: str, library: Library) -> list[int]:
    return library.ids(text) if text.strip() else []


def _members(label: str, library: Library) -> list[int]:
    if label == NO_CLUSTER:
        return []
    members = clusters.members(library, label, MOST_REFERENCES, 0, "confidence")
    return [member.image.id for member in members]


def _of_pictures(library: Library, identity: Identity, references: Sequence[torch.Tensor]) -> list[Float32s]:
    each = [picture for batch in references for picture in read_pictures(batch)]
    return [library.encoders.pictures(identity, [picture])[0] for picture in host.each(each)]


def _of_ids(library: Library, identity: Identity, layer: str, ids: Sequence[int]) -> list[Float32s]:
    """Images' own vectors, and of those that have none their pictures'."""
    stored = library.vectors(ids, layer) if library.mirrors(f"embeddings.{layer}") else [None] * len(ids)
    found = []
    for image_id, vector in host.each(list(zip(ids, stored, strict=True))):
        if vector is None:
            vector = library.encoders.pictures(identity, [library.picture(image_id)])[0]
        found.append(_unit(vector))
    return found


def _unit(vector: Float32s) -> Float32s:
    import numpy as np

    unit: Float32s = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def _chosen(images: list[torch.Tensor], like: set[int], passed: bool) -> list[Any]:
    """The pictures that passed, or the others, as batches like those they came in; a blocker where there are none."""
    found, first = [], 0
    for batch in images:
        places = [i for i in range(len(batch)) if (first + i in like) is passed]
        first += len(batch)
        if places:
            found.append(batch[places])
    return found or [host.blocker()]


def _sheet(each: list[torch.Tensor], scores: list[float], groups: list[list[int]]) -> dict[str, Any]:
    """The pictures with their scores, those that passed before the others; nothing outside ComfyUI."""
    if not host.running():
        return {}
    from ..luna_dt.sheet import group_sheet, thumbnail

    said = ("like enough", "left out")
    tiles = [
        [(thumbnail(read_pictures(each[i].nan_to_num())[0]), f"{scores[i]:.3f}", words) for i in group]
        for group, words in zip(groups, said, strict=True)
        if group
    ]
    return pictures.preview(group_sheet(tiles))
