"""``settings.toml`` changed by a program: what a person wrote around a value stays as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import SettingsError
from .plain import shown
from .settings import FILE, Settings, parsed


def write(home: Path, changes: Mapping[str, str | Mapping[str, str] | None]) -> None:
    """Changes some settings in a home's ``settings.toml``; None takes one out.

    The file is replaced whole or not at all, and is its owner's alone once it is made here.  Raises SettingsError where a
    value makes no sense, or the file cannot be written or is made in a way that only a person can change.
    """
    file = home / FILE
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        wanted = {name: value for name, value in parsed(text).items() if name not in changes}
        given = {name: value for name, value in changes.items() if value is not None}
        Settings(home=home).replace(**given)
        for name in changes:
            text = _without(text, name)
        for name, value in given.items():
            text = _with(text, name, value)
        if _said(text) != {**wanted, **given}:
            raise ValueError("it is written in a way that only a person can change; edit it by hand")
        home.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.unlink(missing_ok=True)
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600  # it may hold a token
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{file} cannot be changed: {shown(error, 300)}") from error


def _without(text: str, name: str) -> str:
    """The text without a setting: a value that may go over several lines, or a table to its end."""
    lines, kept, at = text.splitlines(keepends=True), [], 0
    table = False  # whether this is below the first header
    while at < len(lines):
        key, _, _ = lines[at].partition("=")
        if lines[at].strip().partition("#")[0].strip() == f"[{name}]":
            at += 1
            while at < len(lines) and not lines[at].lstrip().startswith("["):
                at += 1
            continue
        table = table or lines[at].lstrip().startswith("[")
        if not table and key.strip() == name:
            end = next(
                (end for end in range(at + 1, len(lines) + 1) if _said("".join(lines[at:end])) is not None), at + 1
            )
            at = end
            continue
        kept.append(lines[at])
        at += 1
    return "".join(kept)


def _said(text: str) -> dict[str, Any] | None:
    try:
        return parsed(text)
    except ValueError:
        return None


def _with(text: str, name: str, value: str | Mapping[str, str]) -> str:
    """The text with a setting: before all tables, or a table at the end."""
    text = text if not text or text.endswith("\n") else f"{text}\n"
    if not isinstance(value, str):
        pairs = "".join(f"{_quoted(key)} = {_quoted(other)}\n" for key, other in value.items())
        return f"{text}[{name}]\n{pairs}"
    lines = text.splitlines(keepends=True)
    first = next((at for at, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    return "".join([*lines[:first], f"{name} = {_quoted(value)}\n", *lines[first:]])


def _quoted(text: str) -> str:
    """A text as TOML has it, which is as JSON has it; a path with single quotes, so that a backslash is one."""
    return json.dumps(text, ensure_ascii=False) if "'" in text or "\\" not in text else f"'{text}'"
