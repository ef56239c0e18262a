"""Writes docs/python.md from the docstrings of what is public.

    python -m tools.write_docs

What the page says is said in the code alone; tests/unit/test_docs.py holds it to be current.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import luna_dt

TARGET = Path(__file__).resolve().parents[1] / "docs" / "python.md"
HEAD = """# From Python

Written by `python -m tools.write_docs` from the docstrings; what is to be changed here is changed there.

`from luna_dt import Library, …` has all that is named here. A `Library` may be used from several threads; several processes
may open one home, one at a time may sync it. `PictureLike`, an image, may be a path, a PIL image, bytes, an array or a ComfyUI
tensor [B,H,W,C]; of several pictures the mean direction is searched. 16-bit values are scaled, palettes and EXIF rotation
resolved, alpha dropped. Images that are hidden (setting `hide`: marked for deletion, unavailable) are not found. `Progress` is a function
that hears a kind, what is done and how much there is. Every error is a `LunaError` of `luna_dt.errors`; its `code` is stable
([codes](troubleshooting.md)).
"""
#: A module in front of a type's name says nothing to who reads; os.PathLike and numpy's are called so.
MODULE = re.compile(r"(?<![\w.])(?!os\.|np\.)[a-z_]+\.(?=[A-Z])")


HELD = "\N{NO-BREAK SPACE}"  # where a line is not to end


def flowing(text: str) -> str:
    """A docstring as Markdown: its code as a block, RST's double backticks single."""
    text = re.sub(r"``([^`]+)``", r"`\1`", text).replace(".  ", ". ") + "\n"
    block = re.compile(r"::\n\n((?:    .*\n|\n)+)")
    return block.sub(lambda code: f":\n\n```python\n{textwrap.dedent(code[1]).strip()}\n```\n\n", text).strip() + "\n"


def signature(name: str, member: Any) -> str:
    """A call as it is written, its hints as they stand in the sources."""
    parts, by_name = [], False
    called = inspect.signature(member)
    for each in called.parameters.values():
        if each.name in ("self", "cls"):
            continue
        if each.kind is each.KEYWORD_ONLY and not by_name:
            parts.append("*")
            by_name = True
        stars = "*" * (each.kind is each.VAR_POSITIONAL) + "**" * (each.kind is each.VAR_KEYWORD)
        hint = "" if each.annotation is each.empty else f": {each.annotation}"
        named = getattr(each.default, "__name__", repr(each.default)).replace("<lambda>", "…")
        parts.append(stars + each.name + hint + ("" if each.default is each.empty else f" = {named}"))
    gives = "" if name[0].isupper() else f" -> {called.return_annotation}"
    line = MODULE.sub("", f"{name}({', '.join(part.replace(' ', HELD) for part in parts)}){gives.replace(' ', HELD)}")
    wrapped = textwrap.wrap(line, 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "```python\n" + "\n".join(wrapped).replace(HELD, " ") + "\n```\n"


def members(kind: type) -> Iterator[str]:
    """What a class, and ours that it is made of, offers and explains."""
    seen: set[str] = set()
    for base in (each for each in kind.__mro__ if each.__module__.startswith("luna_dt")):
        for name, member in vars(base).items():
            inner = getattr(member, "__func__", member)
            told = inspect.getdoc(inner.fget if isinstance(inner, property) else inner) or ""
            if name.startswith("_") or name in seen or not (isinstance(inner, property) or inspect.isfunction(inner)):
                continue
            seen.add(name)
            if told:
                yield f"### {kind.__name__}.{name}\n"
                if not isinstance(inner, property):
                    yield signature(name, inner)
                yield flowing(told)


def page() -> str:
    parts = [HEAD]
    for name in sorted(luna_dt.__all__, key=lambda each: (each != "Library", each)):
        kind = getattr(luna_dt, name)
        if not inspect.isclass(kind) or name == "LunaError":  # the head tells of them
            continue
        parts += [f"## {name}\n", flowing(inspect.getdoc(kind) or "")]
        if dataclasses.is_dataclass(kind):
            parts.append("Fields: " + ", ".join(f"`{each.name}`" for each in dataclasses.fields(kind)) + ".\n")
        elif name == "Library":
            parts.append(signature(name, kind))
        parts += members(kind)
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8", newline="\n")
    print(f"{TARGET} is written")
