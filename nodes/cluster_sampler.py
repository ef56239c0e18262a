"""Luna DT Cluster Sampler."""

from __future__ import annotations

import logging
from typing import Any, Literal

from ..luna_dt.errors import BadInput, NotFound, PictureMissing
from ..luna_dt.search.sampling import SORTS
from . import clusters, host, inputs, pictures, shared, words

log = logging.getLogger(__name__)


class LunaDTClusterSampler:
    """Pictures of one person or character, as DT has grouped them."""

    TITLE = "Luna DT Cluster Sampler"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Takes pictures of one of DiffusionToolkit's clusters: the surest, the best, any, or the most different."
    )
    RETURN_TYPES = ("IMAGE", "STRING", "INT", "INT")
    RETURN_NAMES = ("images", "prompts", "count", "image_ids")
    OUTPUT_TOOLTIPS = ("The pictures, one by one.", "Their prompts.", "How many there are.", "Their ids in DT.")
    OUTPUT_IS_LIST = (True, True, False, True)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "cluster": (
                    "COMBO",
                    # a list that the page fetches would lose what a saved workflow has chosen
                    {
                        "options": clusters.listed(),
                        "tooltip": "A cluster of DT: id and name. R has the list looked up again.",
                    },
                ),
                "sample_count": ("INT", {"default": 5, "min": 1, "max": 50, "tooltip": "How many pictures to take."}),
                "min_quality": (
                    "INT",
                    {"default": 3, "min": 0, "max": 5, "tooltip": "Half of DT's rating; unrated pictures count as 0."},
                ),
                "sort_by": (
                    sorted(SORTS, key=lambda sort: sort != "confidence"),  # the contract's order
                    {"default": "quality", "tooltip": "diverse: each as different as possible from those before it."},
                ),
            },
            "optional": {
                "seed": inputs.seed("For random: the same seed, the same choice."),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, cluster: str | None = None) -> str | Literal[True]:  # noqa: N802
        """Lets through what is in the list no more: the run refuses it by its name."""
        if cluster is not None:  # None: it comes from another node
            try:
                clusters.cluster_id(cluster)
            except BadInput as error:
                return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:  # noqa: N802
        return shared.library().fingerprint("clusters", "images", "embeddings.visual")

    def run(self, cluster: str, sample_count: int, min_quality: int, sort_by: str, seed: int = 0) -> dict[str, Any]:
        from ..luna_dt.sheet import group_sheet, thumbnail

        library = shared.library()
        members = clusters.members(library, cluster, sample_count, min_quality, sort_by, seed)
        if not members:
            raise NotFound(f"cluster '{cluster}' has no picture of quality {min_quality} or better; lower min_quality")
        images, prompts, ids, reasons, shown = [], [], [], [], []
        opened = library.pictures(host.each([member.image.id for member in members]))
        for member, (image_id, picture, reason) in zip(members, opened, strict=True):
            if picture is None:
                reasons.append(reason)
                continue
            images.append(pictures.to_image(picture))
            prompts.append(member.image.prompt)
            ids.append(image_id)
            shown.append((thumbnail(picture), str(image_id), member.image.prompt))
        if not images:
            raise PictureMissing(f"none of the {len(members)} pictures could be opened; the first: {reasons[0]}")
        for reason in reasons:
            log.warning("left out of cluster '%s': %s", cluster, words.here(reason))
        sheet = group_sheet([shown])
        return {"ui": pictures.preview(sheet), "result": (images, prompts, len(images), ids)}
