"""Encoders: from a layer's identity to vectors of that identity, loaded when first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import IdentityMismatch, NotOffered
from ..records import Float32s, Identity
from ..settings import Settings

if TYPE_CHECKING:
    from PIL import Image

    from .clip import ImageTower, TextTower


#: Called with a tower (a torch module) before each use, brings it where it is to run; a host such as ComfyUI,
#: which gives its own, moves it out again when it wants the memory.
Residency = Callable[[Any], object]


class Encoders:
    """The towers in use, an image and a text tower for each identity; safe to use from several threads."""

    def __init__(self, settings: Settings, residency: Residency | None = None) -> None:
        self._settings, self._residency = settings, residency
        self._image_towers: dict[Identity, ImageTower] = {}
        self._text_towers: dict[Identity, TextTower] = {}
        self._lock = threading.Lock()

    def pictures(self, identity: Identity, pictures: Sequence[Image.Image]) -> Float32s:
        """float32[n, dim], each of length 1.

        Raises IdentityMismatch when the layer was not made from pictures, WeightsError, MissingExtra.
        """
        from .clip import ImageTower

        if identity.tower != "image":
            raise IdentityMismatch(
                f"this layer was made from texts ({identity}), so a picture cannot be compared with it; "
                "search it by image id or by text, or search the visual layer by picture"
            )
        with self._lock:
            if identity not in self._image_towers:
                self._image_towers[identity] = ImageTower(identity, self._settings, self._residency)
            return self._image_towers[identity].encode(pictures)

    def texts(self, identity: Identity, texts: Sequence[str]) -> Float32s:
        """float32[n, dim], each of length 1, in the same space as a layer of that identity.

        Raises IdentityMismatch when the layer holds picture vectors that no text shares a space with
        (pooled, before the projection), NotOffered for models that are not CLIP, WeightsError, MissingExtra.
        """
        from .clip import TextTower

        if identity.tower == "image" and identity.output != "projected":
            raise IdentityMismatch(
                f"this layer was made from pictures, before the projection that texts share ({identity}); "
                "search it by picture or image id, or search a layer made from texts"
            )
        if "/" in identity.architecture:
            raise NotOffered(
                f"text queries by {identity.architecture} are not possible yet; search by image id instead"
            )
        with self._lock:
            if identity not in self._text_towers:
                self._text_towers[identity] = TextTower(identity, self._settings, self._residency)
            return self._text_towers[identity].encode(texts)

    def close(self) -> None:
        """Lets the towers go; the next use loads them again."""
        with self._lock:
            self._image_towers.clear()
            self._text_towers.clear()
