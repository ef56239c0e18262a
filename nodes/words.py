"""What the library says, in words that help inside ComfyUI, where there is neither ``luna-dt`` nor a package of that name."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import Any

from ..luna_dt import LunaError

PACK = Path(__file__).parents[1]
SYNC = "the node Luna DT Sync"

ACCEPT = "“take what is there” in the Luna DT tab, under Library"

_ACCEPT = re.compile(r"luna-dt sync --accept(, or Library\.sync\(accept=True\))?")
#: Not where it is a part of a path.
_SYNC = re.compile(r"(?<![\w\\/.-])(run:? )?luna-dt sync\b")
_COMMAND = re.compile(
    r"(?<![\w\\/.-])luna-dt(?= (?:--home |search|images|show|export|duplicates|status|doctor|engine|verify|embed|map|outbox|lineage|batch|serve|gallery|rescue|demo)\b)"
)
_EXTRA = re.compile(r'pip install "luna_dt\[[a-z,]*\]"')


def command(arguments: str) -> str:
    """What does in a terminal what ``luna-dt`` and those arguments do where it is installed; works in any folder, and
    with the Python that comes with ComfyUI for Windows, which does not look into the folder it is started in."""
    return f'"{sys.executable}" "{PACK}" {arguments}'.rstrip()


def here(text: str) -> str:
    """A message of the library, with the steps that exist here."""
    text = _ACCEPT.sub(ACCEPT, text)
    text = _SYNC.sub(lambda found: f"{'run ' if found[1] else ''}{SYNC}", text)
    text = _EXTRA.sub(lambda _: f'"{sys.executable}" -m pip install -r "{PACK / "requirements.txt"}"', text)
    return _COMMAND.sub(lambda _: command(""), text)


def raised(error: LunaError) -> LunaError:
    """The same error for ComfyUI's page, which shows its class with its module, and its message."""
    known: Any = type(error)  # to mypy a class is not hashable where its objects are
    kind = _shown(known)
    return kind.__new__(kind, here(str(error)))


@functools.cache
def _shown(kind: type[LunaError]) -> type[LunaError]:
    name = "Luna DT: " + re.sub(r"(?<!^)([A-Z])", r" \1", kind.__name__).lower()
    # of builtins the page leaves the module out
    return type(name, (kind,), {"__module__": "builtins", "__qualname__": name})
