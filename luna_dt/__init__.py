"""luna_dt: the bridge between DiffusionToolkit and ComfyUI."""

from . import errors
from .dt.catalog import Health
from .errors import LunaError
from .generation import Generation
from .identity import Identity, Verdict
from .layers.embed import Embedded
from .library import Library
from .made.ledger import BatchItem, TrackedBatch
from .made.lineage import Node
from .made.outbox import Entry
from .maps.making import ControlMap, MadeMaps
from .mirror.sync import Change
from .pixels import PictureLike
from .records import Captions, Cluster, ClusterImage, Hit, ImageRecord, Member, Term
from .settings import Settings
from .status import LayerStatus, Status
from .store import LayerState
from .version import __version__ as __version__

__all__ = [
    "BatchItem",
    "Captions",
    "Change",
    "Cluster",
    "ClusterImage",
    "ControlMap",
    "Embedded",
    "Entry",
    "Generation",
    "Health",
    "Hit",
    "Identity",
    "ImageRecord",
    "LayerState",
    "LayerStatus",
    "Library",
    "LunaError",
    "MadeMaps",
    "Member",
    "Node",
    "PictureLike",
    "Settings",
    "Status",
    "Term",
    "TrackedBatch",
    "Verdict",
    "errors",
]
