"""luna_dt: the bridge between DiffusionToolkit and ComfyUI."""

from . import errors
from .dt.catalog import Catalog, Health
from .errors import LunaError
from .generation import Generation
from .identity import Identity, Verdict
from .layers.embed import Embedded
from .library import Library
from .made.batch import Batches
from .made.ledger import BatchItem, TrackedBatch
from .made.lineage import Node
from .made.outbox import Entry, Outbox
from .maps.making import ControlMap, MadeMaps
from .maps.served import ServedMaps
from .mirror.sync import Change
from .models import Encoders
from .pixels import PictureLike
from .progress import Progress
from .records import Captions, Cluster, ClusterImage, Duplicates, Hit, ImageRecord, Member, Term
from .settings import Settings
from .status import LayerStatus, Status
from .store import LayerState
from .version import __version__ as __version__

__all__ = [
    "BatchItem",
    "Batches",
    "Captions",
    "Catalog",
    "Change",
    "Cluster",
    "ClusterImage",
    "ControlMap",
    "Duplicates",
    "Embedded",
    "Encoders",
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
    "Outbox",
    "PictureLike",
    "Progress",
    "ServedMaps",
    "Settings",
    "Status",
    "Term",
    "TrackedBatch",
    "Verdict",
    "errors",
]
