"""Writes constraints.txt: what this environment has installed, names and versions, for the tests and for CI.

    make constraints

A version that is not to be had for an older Python is pinned for those that it is for, and free below.  Left out is
what exists on some platforms alone (CUDA's packages, which torch pins itself) and what is not installed from an index.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

TARGET = Path(__file__).parents[1] / "constraints.txt"
OLDEST = (3, 10)
NOT_OURS_TO_PIN = re.compile(r"nvidia-|cuda-|triton$|(luna-dt|pip|setuptools|wheel)$")


def pinned(found: metadata.Distribution) -> str:
    """A line of the constraints; empty for what is not pinned."""
    name, version = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower(), found.version.partition("+")[0]
    if NOT_OURS_TO_PIN.match(name):
        return ""
    least = re.search(r">=?\s*3\.(\d+)", found.metadata["Requires-Python"] or "")
    newer = least is not None and (3, int(least[1])) > OLDEST
    return f"{name}=={version}" + (f' ; python_version >= "3.{least[1]}"' if least and newer else "")


if __name__ == "__main__":
    lines = sorted({pinned(each) for each in metadata.distributions()} - {""})
    TARGET.write_text("# Written by `make constraints`.\n" + "\n".join(lines) + "\n", encoding="utf-8")
