"""The settings as ComfyUI's dialog shows and changes them: the token goes in, and never comes out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import BadInput, SettingsError
from ..plain import shown
from ..settings import DEFAULT_DT, ENVIRONMENT, FILE, Settings, default_home, without_secrets, written
from ..settings_file import write

NAMES = ("home", "dt", "token", "index", "device", "hide", "path_map")
VARIABLES = {**ENVIRONMENT, "home": "LUNA_DT_HOME"}
LONGEST, MOST_PATHS = 4000, 200


def told(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Each setting as it is: its ``value`` without secrets, the ``source`` it is from (environment, file, default) and the
    ``variable`` of the environment that wins; of the token only whether there is one.

    Raises SettingsError.
    """
    now = Settings.load(environ=environ)
    hidden = "" if now.hide is None else ", ".join(now.hide) or "none"
    values: dict[str, Any] = {
        "home": str(now.home), "dt": now.shown_dt, "token": bool(now.token), "index": without_secrets(now.index),
        "device": now.device, "hide": hidden, "path_map": dict(now.path_map),
    }  # fmt: skip
    there, fixed = {*written(now.home), *({"home"} if now.home != default_home() else ())}, _fixed(environ)
    settings = {
        name: {
            "value": values[name], "variable": VARIABLES[name],
            "source": "environment" if name in fixed else "file" if name in there else "default",
        }
        for name in NAMES
    }  # fmt: skip
    return {"settings": settings, "file": str(now.home / FILE)}


def _fixed(environ: Mapping[str, str]) -> set[str]:
    """What the environment says, which wins."""
    return {name for name in NAMES if environ.get(VARIABLES[name])}


def change(asked: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Writes the settings that are named; "" or an empty map takes one back to its default.

    A token belongs to an address: where another is written without a token, the old one is forgotten, so that whoever
    writes an address is not sent it.  Another home begins with the settings of this one, unless it has its own.
    Raises BadInput, SettingsError.
    """
    now = Settings.load(environ=environ)
    fixed = _fixed(environ)
    changes: dict[str, str | Mapping[str, str] | None] = {}
    for name, given in asked.items():
        if name not in NAMES:
            raise BadInput(f"there is no setting '{name[:50]}' to be changed here")
        if name in fixed:
            raise BadInput(f"{name} is said by the environment variable {VARIABLES[name]}, which wins; change it there")
        changes[name] = _checked(name, given) or None
    for name, secret in (("dt", now.dt), ("index", now.index)):
        value = changes.get(name)
        if value == without_secrets(secret):
            del changes[name]
        elif isinstance(value, str) and "***" in value:
            raise BadInput("*** only stands for the password of the address; write it anew")
    if "dt" in changes and now.token and "token" not in changes and not _same_host(changes["dt"] or DEFAULT_DT, now.dt):
        if "token" in fixed:
            raise BadInput(
                f"the token in {VARIABLES['token']} belongs to {now.shown_dt} and would be sent to the new address; "
                f"take that variable away, or set {VARIABLES['dt']} beside it"
            )
        changes["token"] = None
    try:
        now.replace(**changes)
    except SettingsError as error:  # a value of the page's, and not of the file's
        raise BadInput(str(error)) from error
    home = now.home
    if "home" in changes:
        home = _moved(now.home, changes.pop("home"))
    if changes:
        write(home, changes)


def _moved(before: Path, said: Any) -> Path:
    home = Path(said).expanduser() if said else default_home()
    if not home.is_absolute():
        raise BadInput(f"home must be a whole path, with its drive or from /, not '{str(said)[:100]}'")
    if home != default_home() and not (home / FILE).exists() and (before / FILE).exists():
        try:
            home.mkdir(parents=True, exist_ok=True)
            shutil.copy(before / FILE, home / FILE)
        except OSError as error:
            raise SettingsError(f"{home} cannot be a home: {shown(error, 300)}") from error
        write(home, {"home": None})
    write(default_home(), {"home": str(home) if home != default_home() else None})
    return home


def _checked(name: str, given: Any) -> str | dict[str, str]:
    if name != "path_map":
        if not isinstance(given, str) or len(given) > LONGEST:
            raise BadInput(f"{name} must be a text of at most {LONGEST:,} characters")
        return given.strip()
    if not isinstance(given, dict) or len(given) > MOST_PATHS:
        raise BadInput(f"path_map must be at most {MOST_PATHS} pairs of folders")
    return {_path(theirs): _path(ours) for theirs, ours in given.items()}


def _path(given: Any) -> str:
    if not isinstance(given, str) or not given.strip() or len(given) > LONGEST:
        raise BadInput("path_map maps each of DT's folders to one of this machine")
    return given.strip()


def _same_host(one: Any, other: str) -> bool:
    new, old = urlsplit(str(one)), urlsplit(other)
    return (new.scheme, new.netloc) == (old.scheme, old.netloc)
