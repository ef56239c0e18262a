"""luna_dt: the bridge between DiffusionToolkit and ComfyUI."""

from . import errors
from .errors import LunaError
from .generation import Generation
from .identity import Identity, Verdict
from .layers.embed import Embedded
from .library import Library, Status
from .maps.making import ControlMap, MadeMaps
from .mirror.sync import Change
from .records import Captions, Cluster, ClusterImage, Hit, ImageRecord, Term
from .settings import Settings
from .version import __version__ as __version__

__all__ = [
    "Captions",
    "Change",
    "Cluster",
    "ClusterImage",
    "ControlMap",
    "Embedded",
    "Generation",
    "Hit",
    "Identity",
    "ImageRecord",
    "Library",
    "LunaError",
    "MadeMaps",
    "Settings",
    "Status",
    "Term",
    "Verdict",
    "errors",
]
