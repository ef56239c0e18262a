"""Luna DT Similar Search."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..luna_dt import LunaError
from ..luna_dt.errors import BadInput, NotFound, PictureMissing
from ..luna_dt.pixels import read_pictures
from ..luna_dt.records import Alike
from ..luna_dt.search.plan import Engine
from . import host, inputs, pictures, shared, words

if TYPE_CHECKING:
    import torch

    from ..luna_dt import Library


class LunaDTSimilarSearch:
    """The pictures most similar to a picture, to an image of DT, or to a text."""

    TITLE = "Luna DT Similar Search"
    CATEGORY = inputs.CATEGORY
    DESCRIPTION = (
        "Finds similar pictures in your DiffusionToolkit library. A reference picture is encoded here, and the "
        "search runs here in what Luna DT Sync has mirrored, with DT closed if you like."
    )
    RETURN_TYPES = ("IMAGE", "STRING", "INT", "METADATA", "INT", "FLOAT")
    RETURN_NAMES = ("images", "prompts", "count", "results_metadata", "image_ids", "similarities")
    OUTPUT_TOOLTIPS = (
        "The pictures found, most similar first, one by one.",
        "Their prompts.",
        "How many there are.",
        "Every hit with all DT knows; one whose picture could not be opened says why.",
        "Their ids in DT.",
        "Their cosine similarities.",
    )
    OUTPUT_IS_LIST = (True, True, False, False, True, True)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "search_mode": inputs.layer(
                    "The layer to compare in; visual is how it looks; the others are made from prompts."
                ),
                "top_k": ("INT", {"default": 10, "min": 1, "max": 100, "tooltip": "How many pictures at most."}),
                "min_similarity": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "Leave out what is less similar.",
                    },
                ),
            },
            "optional": {
                "reference_image": ("IMAGE", {"tooltip": "The picture to compare with; of several, their mean."}),
                "reference_image_id": inputs.image_id(
                    "An image of DT to compare with. Beside a reference image: the one to leave out."
                ),
                "text_query": inputs.text("A text to compare with, if there is no other reference.", multiline=True),
                "exclude_source": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Leave the image of reference_image_id out of its own hits."},
                ),
                "engine": (
                    list(get_args(Engine)),
                    {
                        "default": "auto",
                        "tooltip": "local: the mirror. dt: ask DT. auto: the mirror if this layer is synced.",
                    },
                ),
                "clip_vision": (
                    "CLIP_VISION",
                    {"tooltip": "Encode with this model, if it is the one the layer was made by."},
                ),
                "when_empty": (
                    ["error", "reference"],
                    {
                        "default": "error",
                        "tooltip": "If nothing is similar enough: stop, or hand on the reference picture itself.",
                    },
                ),
                "where": inputs.text("Only images that fit this query, in DT's language; see docs/query.md."),
                "collapse": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.005,
                        "round": 0.001,
                        "tooltip": "Of hits that are so similar to each other give one, as 0.98; 0 gives all.",
                    },
                ),
                "diverse": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "How much the hits are to differ from each other; 0 not at all.",
                    },
                ),
                "copies": (
                    ["collapse", "seed", "file"],
                    {
                        "default": "collapse",
                        "tooltip": "Of which hits to give one: as similar as collapse says, of one prompt and seed, or "
                        "of one file.",
                    },
                ),
            },
        }

    @classmethod
    def IS_CHANGED(cls, search_mode: str | None = None, where: str | None = "", **_: Any) -> str:  # noqa: N802
        kinds = (f"embeddings.{search_mode}", "images", "captions")
        return shared.fingerprint_of_query(shared.library(), where, *kinds)

    def run(
        self,
        search_mode: str,
        top_k: int,
        min_similarity: float,
        reference_image: torch.Tensor | None = None,
        reference_image_id: int = 0,
        text_query: str = "",
        exclude_source: bool = True,
        engine: Engine = "auto",
        clip_vision: Any = None,
        when_empty: str = "error",
        where: str = "",
        collapse: float = 0.0,
        diverse: float = 0.0,
        copies: Alike | Literal["collapse"] = "collapse",
    ) -> dict[str, Any]:
        from ..luna_dt.sheet import contact_sheet

        library = shared.library()
        reference: dict[str, Any]
        if reference_image is not None and clip_vision is not None:
            identity = library.identity(search_mode)
            vector = host.clip_vision_vector(clip_vision, reference_image, identity)
            reference = {"vector": vector, "identity": identity}
        elif reference_image is not None and len(reference_image) > 1 and engine != "dt":
            identity = library.identity(search_mode)  # one by one, for on a CPU each takes a second
            encoded = [
                library.encoders.pictures(identity, [one])[0] for one in host.each(read_pictures(reference_image))
            ]
            reference = {"vector": sum(encoded) / len(encoded), "identity": identity}
        elif reference_image is not None:
            reference = {"image": reference_image}
        elif reference_image_id:
            reference = {"image_id": reference_image_id}
        elif text_query.strip():
            reference = {"text": text_query}
        else:
            raise BadInput("give a reference_image, a reference_image_id or a text_query to search by")
        exclude = [reference_image_id] if reference_image_id and exclude_source else []
        hits = library.search(
            **reference,
            layer=search_mode,
            top_k=top_k,
            min_similarity=min_similarity,
            exclude=exclude,
            exclude_source=exclude_source,
            engine=engine,
            where=where,
            collapse=collapse if copies == "collapse" else copies,
            diverse=diverse,
        )
        found, results = [], []
        opened = library.pictures(host.each([hit.id for hit in hits]))
        for hit, (_, picture, reason) in zip(hits, opened, strict=True):
            if picture is None:
                results.append({**hit.to_json(), "not_opened": words.here(reason)})
            else:
                results.append(hit.to_json())
                found.append((hit, picture))
        if not found:
            if when_empty == "reference":
                handed = self._handed_on(library, reference_image, reference_image_id, results)
                if handed is not None:
                    return handed
            return self._nothing(search_mode, where, min_similarity, results)
        query = None
        if reference_image is not None:
            query = read_pictures(reference_image)[0]
        elif "image_id" in reference:
            with contextlib.suppress(LunaError):  # the hits are shown without it
                query = library.picture(reference_image_id)
        title = (
            text_query
            if "text" in reference
            else f"id {reference_image_id}"
            if "image_id" in reference
            else "reference"
        )
        sheet = contact_sheet(query, title, [(picture, hit.caption, hit.image.prompt) for hit, picture in found])
        return {
            "ui": pictures.preview(sheet),
            "result": (
                [pictures.to_image(picture) for _, picture in found],
                [hit.image.prompt for hit, _ in found],
                len(found),
                {"results": results},
                [hit.id for hit, _ in found],
                [hit.similarity for hit, _ in found],
            ),
        }

    def _handed_on(
        self, library: Library, image: torch.Tensor | None, image_id: int, results: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """The reference in the place of hits; None where it is a text."""
        prompt = ""
        if image is None:
            if not image_id:
                return None
            image, prompt = pictures.to_image(library.picture(image_id)), library.image(image_id).prompt
        return {"ui": {}, "result": ([image], [prompt], 0, {"results": results}, [image_id], [1.0])}

    def _nothing(self, layer: str, where: str, least: float, results: list[dict[str, Any]]) -> dict[str, Any]:
        if results:
            raise PictureMissing(
                f"{len(results)} hits, but none could be opened; the first: {results[0]['not_opened']}"
            )
        fits = f" that fits '{where}'" if where.strip() else ""
        raise NotFound(f"nothing in layer '{layer}'{fits} is similar enough (at least {least:g}); lower min_similarity")
