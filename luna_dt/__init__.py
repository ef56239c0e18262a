"""luna_dt: the bridge between DiffusionToolkit and ComfyUI."""

__version__ = "0.1.0"

from . import errors
from .embed import Embedded
from .errors import LunaError
from .library import Library, Status
from .maps import ControlMap, MadeMaps
from .records import Captions, Cluster, ClusterImage, Generation, Hit, Identity, ImageRecord, Term, Verdict
from .settings import Settings
from .sync import Change

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
