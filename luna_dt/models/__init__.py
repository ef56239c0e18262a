"""Encoders: from a layer's identity to vectors of that identity, loaded when first needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..errors import BadInput, IdentityMismatch
from ..identity import Identity
from ..memory import Memory, place
from ..records import Float32s
from ..settings import Settings

if TYPE_CHECKING:
    from PIL import Image


class Tower(Protocol):
    """One half of a model, in memory: what is ``prepared`` in any thread becomes unit vectors."""

    batch: int  # how many are computed at once, less after memory ran out
    on_cuda: bool  # whether it may be used by two threads at once to some purpose
    dim: int  # of the projected vectors, where there are any

    def prepared(self, item: Any, identity: Identity, /) -> Any: ...

    def vectors(self, prepared: Sequence[Any], identity: Identity) -> Float32s: ...


class Encoders:
    """The towers of every identity, one of each model and device; safe to use from several threads."""

    def __init__(self, settings: Settings, memory: Memory | None = None) -> None:
        self._settings = settings
        self._memory = memory or Memory()

    def tower(self, identity: Identity, device: str = "") -> Tower:
        """The tower that makes vectors of that identity, on the settings' device or another.

        Raises WeightsError, MissingExtra, SettingsError.
        """
        at = place(device or self._settings.device)
        if identity.variant == "half":
            import torch

            at = (at[0], torch.float16)

        def load() -> Tower:
            from .clip import ImageTower, TextTower
            from .sentence import SentenceTower

            kind = SentenceTower if identity.is_sentence else ImageTower if identity.tower == "image" else TextTower
            return kind(identity, self._settings.models_folders, at, self._memory)

        return self._memory.get((identity.model, identity.tower, *at), load)

    def identity(self, model: str, tower: Literal["image", "text"]) -> Identity:
        """The identity of what a model (``ARCHITECTURE:WEIGHTS``, or a sentence-transformers repository) makes.

        Of CLIP models the projected vectors, which pictures and texts share; pictures are squashed.
        Raises BadInput for a model without such a tower, WeightsError.
        """
        architecture, _, weights = model.partition(":")
        found = Identity(architecture, weights, tower, "projected", "squash" if tower == "image" else "", 1)
        if not found.is_sentence:
            from .weights import find

            return replace(found, dim=int(find(found, self._settings.models_folders).config["embed_dim"]))
        if tower == "image":
            raise BadInput(f"{model} encodes texts only; name a CLIP model of open_clip as ARCHITECTURE:WEIGHTS")
        return replace(found, output="pooled", dim=self.tower(found).dim)

    def pictures(self, identity: Identity, pictures: Sequence[Image.Image]) -> Float32s:
        """float32[n, dim], each of length 1, in the same space as a layer of that identity.

        A layer of projected texts shares its space with pictures, which are squashed for it.
        Raises IdentityMismatch when no picture shares a space with the layer, WeightsError, MissingExtra, OutOfMemory.
        """
        if identity.tower == "text":
            if identity.output != "projected" or identity.is_sentence:
                raise IdentityMismatch(
                    f"this layer was made from texts that share no space with pictures ({identity}); search it by "
                    "image id or by text, or have it made from the pictures: luna-dt embed"
                )
            # SDXL's text encoders are these models'
            theirs = {"ViT-bigG-14": "laion2b_s39b_b160k", "ViT-L-14": "openai"}
            weights = theirs[identity.architecture] if identity.weights == "sdxl" else identity.weights
            identity = replace(identity, tower="image", pixels="squash", weights=weights)
        return self._encoded(identity, pictures)

    def texts(self, identity: Identity, texts: Sequence[str]) -> Float32s:
        """float32[n, dim], each of length 1, in the same space as a layer of that identity.

        Raises IdentityMismatch when the layer holds picture vectors that no text shares a space with
        (pooled, before the projection), WeightsError, MissingExtra, OutOfMemory.
        """
        if identity.tower == "image":
            if identity.output != "projected":
                raise IdentityMismatch(
                    f"this layer was made from pictures, before the projection that texts share ({identity}); search "
                    "it by picture or image id, or search a layer made from texts"
                )
            identity = replace(identity, tower="text", pixels="")
        return self._encoded(identity, texts)

    def _encoded(self, identity: Identity, items: Sequence[Any]) -> Float32s:
        tower = self.tower(identity)
        return tower.vectors([tower.prepared(item, identity) for item in items], identity)
