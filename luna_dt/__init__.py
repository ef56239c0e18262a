"""luna_dt: the bridge between DiffusionToolkit and ComfyUI.

What is public is imported when it is first asked for, so that who needs one part does not wait for all.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import errors as errors
    from .doctor import Finding as Finding
    from .dt.catalog import Catalog as Catalog
    from .dt.catalog import Health as Health
    from .errors import LunaError as LunaError
    from .export import Exported as Exported
    from .generation import Generation as Generation
    from .identity import Identity as Identity
    from .identity import Verdict as Verdict
    from .index.proof import Proof as Proof
    from .known import Known as Known
    from .layers.embed import Embedded as Embedded
    from .layers.embed import Forecast as Forecast
    from .library import Library as Library
    from .made.batch import Batches as Batches
    from .made.ledger import BatchItem as BatchItem
    from .made.ledger import TrackedBatch as TrackedBatch
    from .made.lineage import Node as Node
    from .made.outbox import Entry as Entry
    from .made.outbox import Outbox as Outbox
    from .maps.making import ControlMap as ControlMap
    from .maps.making import MadeMaps as MadeMaps
    from .maps.served import ServedMaps as ServedMaps
    from .mirror.sync import Change as Change
    from .models import Encoders as Encoders
    from .pixels import PictureLike as PictureLike
    from .progress import Progress as Progress
    from .records import Captions as Captions
    from .records import Cluster as Cluster
    from .records import ClusterImage as ClusterImage
    from .records import Duplicates as Duplicates
    from .records import Hit as Hit
    from .records import ImageRecord as ImageRecord
    from .records import Member as Member
    from .records import Term as Term
    from .settings import Settings as Settings
    from .status import LayerStatus as LayerStatus
    from .status import Status as Status
    from .store import LayerState as LayerState
    from .store import SetAside as SetAside
    from .store.rescue import Rescued as Rescued
    from .store.rescue import RescuedTable as RescuedTable

_HOMES = {
    "Duplicates": ".records",
    "BatchItem": ".made.ledger",
    "Batches": ".made.batch",
    "Captions": ".records",
    "Catalog": ".dt.catalog",
    "Change": ".mirror.sync",
    "Cluster": ".records",
    "ClusterImage": ".records",
    "ControlMap": ".maps.making",
    "Embedded": ".layers.embed",
    "Encoders": ".models",
    "Entry": ".made.outbox",
    "Exported": ".export",
    "Finding": ".doctor",
    "Forecast": ".layers.embed",
    "Generation": ".generation",
    "Health": ".dt.catalog",
    "Hit": ".records",
    "Identity": ".identity",
    "ImageRecord": ".records",
    "Known": ".known",
    "LayerState": ".store",
    "LayerStatus": ".status",
    "Library": ".library",
    "LunaError": ".errors",
    "MadeMaps": ".maps.making",
    "Member": ".records",
    "Node": ".made.lineage",
    "Outbox": ".made.outbox",
    "PictureLike": ".pixels",
    "Progress": ".progress",
    "Proof": ".index.proof",
    "Rescued": ".store.rescue",
    "RescuedTable": ".store.rescue",
    "ServedMaps": ".maps.served",
    "SetAside": ".store",
    "Settings": ".settings",
    "Status": ".status",
    "Term": ".records",
    "TrackedBatch": ".made.ledger",
    "Verdict": ".identity",
    "errors": ".errors",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name], __name__)
    globals()[name] = found = home if name == "errors" else getattr(home, name)
    return found


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
