"""What a program sees first: the names, what importing costs, and the errors' family tree."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import luna_dt
from luna_dt import errors
from luna_dt.made.batch import Batches
from luna_dt.made.outbox import Outbox
from luna_dt.models import Encoders

HEAVY = ("torch", "open_clip", "psycopg", "scipy", "hnswlib", "requests", "PIL", "fastapi", "click", "rich")


def classes_in(hint: Any) -> Iterator[type]:
    """The project's own classes in a type hint, however deep."""
    if isinstance(hint, type) and hint.__module__.startswith("luna_dt.") and not get_args(hint):
        yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):  # a list: what a call takes
        yield from classes_in(part)


def hints_of(kind: type) -> Iterator[dict[str, Any]]:
    """The hints of a class's public calls, properties and fields."""
    if dataclasses.is_dataclass(kind):
        yield get_type_hints(kind)
    for name, member in inspect.getmembers(kind):
        call = member.fget if isinstance(member, property) else member
        if (not name.startswith("_") or (kind, name) == (luna_dt.Library, "__init__")) and inspect.isfunction(call):
            yield get_type_hints(call)


def test_public_names_are_all_that_public_calls_take_and_return() -> None:
    todo: list[type] = [luna_dt.Library, Outbox, Batches, Encoders]
    met: set[type] = set(todo)
    for kind in todo:
        if kind in todo[:3] or dataclasses.is_dataclass(kind):
            found = {each for hints in hints_of(kind) for hint in hints.values() for each in classes_in(hint)}
            todo += [each for each in found if each not in met]
            met |= found
    assert luna_dt.__all__ == sorted(
        {each.__name__ for each in met} | {"LunaError", "PictureLike", "Progress", "errors"}
    )
    assert all(hasattr(luna_dt, name) for name in luna_dt.__all__)


def test_importing_is_light() -> None:
    """Counts modules and compares with numpy's own import, in one process; absolute times would be noise."""
    code = (
        "import sys, time; t = time.perf_counter(); import numpy; n = time.perf_counter() - t\n"
        "t = time.perf_counter(); import luna_dt; d = time.perf_counter() - t\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], d / n)"
    )
    ratios = []
    for _ in range(5):
        loaded, ratio = subprocess.check_output([sys.executable, "-c", code], text=True).rsplit(" ", 1)
        assert loaded == "[]"
        ratios.append(float(ratio))
    assert min(ratios) < 2


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^([ │├└─]*)([A-Z]\w+)(?=\s{2,}|$)", line):
            depth = (len(match[1]) + 1) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    real = {
        kind.__name__: kind.__bases__[0].__name__
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.LunaError)
    }
    assert drawn == real


def test_every_code_leads_back_to_its_class() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.LunaError)]
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        if kind is not errors.MissingExtra:  # made from other arguments; never crosses the wire as a class
            assert errors.by_code(kind.code) is kind
    assert errors.by_code("nonsense") is None
