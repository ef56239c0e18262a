"""Where things are and what is allowed: environment first, then ``settings.toml`` in the home, then defaults.

| setting    | environment       | settings.toml             | default                                   |
|------------|-------------------|---------------------------|-------------------------------------------|
| home       | LUNA_DT_HOME      | home = "…", in the        | the platform's user data folder           |
|            |                   | default one alone         |                                           |
| dt         | DT_API_URL        | dt = "…"                  | http://localhost:5000, else installed DT  |
| allowed    | LUNA_DT_ALLOWED   | allowed = ["http://…"]    | none; addresses a workflow may name, "; " |
| token      | DT_API_TOKEN      | token = "…"               | none                                      |
| timeout    | LUNA_DT_TIMEOUT   | timeout = 30              | 30 s for one answer of DT                 |
| device     | LUNA_DT_DEVICE    | device = "cuda:0"         | auto (CUDA, then MPS, then CPU)           |
| index      | LUNA_DT_INDEX     | index = "exact"           | auto (index/engines.py chooses); or a     |
|            |                   |                           | Milvus server, ``milvus+http://host``     |
| models     | LUNA_DT_MODELS    | models = ["…"]            | folders; ``models`` in the home is last   |
| maps_gb    | LUNA_DT_MAPS_GB   | maps_gb = 10              | 10: gigabytes of ControlNet maps to keep  |
| sync_minutes | LUNA_DT_SYNC_MINUTES | sync_minutes = 30    | 0: ComfyUI syncs by the Sync node alone   |
| hide       | LUNA_DT_HIDE      | hide = ["delete"]         | delete and unavailable, and nsfw where    |
|            |                   |                           | stock DT's config.json hides it; "none"   |
| path_map   | LUNA_DT_PATH_MAP  | [path_map] DT's = "ours"  | empty; in the environment ``A=B;C=D``     |
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from .errors import SettingsError
from .plain import quoted, shown
from .query import HIDEABLE

DEFAULT_DT = "http://localhost:5000"
FILE = "settings.toml"


@dataclass(frozen=True)
class Settings:
    """One library's settings; ``Settings.load()`` reads them, ``replace()`` changes single ones."""

    home: Path
    dt: str = DEFAULT_DT
    allowed: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    timeout: float = 30.0
    device: str = "auto"
    index: str = field(default="auto", repr=False)  # may hold a password
    models: tuple[Path, ...] = ()
    maps_gb: float = 10.0
    sync_minutes: float = 0.0
    hide: tuple[str, ...] | None = None
    path_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown_dt(self) -> str:
        """DT's address without its secrets, to be shown and stored."""
        return without_secrets(self.dt)

    @property
    def shared(self) -> str:
        """The address of the Milvus server that holds the library; "" where it is mirrored on this machine."""
        return self.index if is_shared(self.index) else ""

    @property
    def maps_bytes(self) -> int:
        return int(self.maps_gb * 1e9)

    @property
    def models_folders(self) -> tuple[Path, ...]:
        """Where weights are looked for, in this order."""
        return (*self.models, self.home / "models")

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads the settings; ``home`` wins over LUNA_DT_HOME, and that over what is said in the default home.

        Raises SettingsError when settings.toml cannot be read, names an unknown setting, or a value
        has the wrong type.
        """
        env = os.environ if environ is None else environ
        given = home or env.get("LUNA_DT_HOME")
        settings = cls(home=Path()).replace(home=given or default_home())
        values = written(settings.home)
        elsewhere = values.pop("home", None) if settings.home == default_home() else None
        if elsewhere and not given:
            settings = settings.replace(home=elsewhere)
            values = written(settings.home)
        if "home" in values:
            raise SettingsError(
                f"{settings.home / FILE} names another home, which only that in {default_home()} may; take the line out"
            )
        settings = settings.replace(**values)
        said: dict[str, Any] = {name: env[key] for name, key in ENVIRONMENT.items() if env.get(key)}
        if "path_map" in said:
            pairs = (pair.partition("=") for pair in said["path_map"].split(";") if pair.strip())
            said["path_map"] = {a.strip(): b.strip() for a, _, b in pairs}
        return settings.replace(**said)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed; None leaves one as it is."""
        values = {}
        for name, value in changes.items():
            if value is None:
                continue
            try:
                values[name] = _READERS[name](value)
            except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: nobody's "~name"
                given = (
                    "that" if name == "token" else quoted(without_secrets(value) if isinstance(value, str) else value)
                )
                told = f"the setting {name} cannot be {given}: {shown(error, 200)}; see luna_dt/settings.py"
                raise SettingsError(told) from error
        return replace(self, **values)


def without_secrets(address: str) -> str:
    """An address with its user's password, and any password among its options, as ``***``."""
    head, at, host = address.rpartition("@")
    if at and "://" in head:
        scheme, _, user = head.partition("://")
        head = f"{scheme}://{user.partition(':')[0]}" + (":***" if ":" in user else "")
    return re.sub(r"(password=)[^&\s]*", r"\1***", head + at + host)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it must be a text")
    if shown(value) != value or "\n" in value:
        raise ValueError("it holds control characters, or half of one")
    return value


def is_shared(index: str) -> bool:
    """Whether a setting ``index`` is the address of a Milvus server, rather than an engine of this machine."""
    return index.startswith(("milvus+http://", "milvus+https://"))


def _address(value: Any) -> str:
    """Without the spaces and quotes that stay around it where it was copied, or set in a Windows prompt, and without the
    ``/api`` that a server's calls begin with."""
    place = value.strip() if isinstance(value, str) else value
    if isinstance(place, str) and len(place) > 1 and place[0] == place[-1] and place[0] in "\"'":
        place = place[1:-1].strip()
    host = urlsplit(_text(place))
    if host.scheme in ("http", "https"):
        _ = host.port  # raises ValueError
        if host.query or host.fragment:
            raise ValueError("a server's address ends before any ? or #")
        place = re.sub("/api/*$", "", str(place))
    return str(place)


def _index(value: Any) -> str:
    if _text(value).startswith("milvus"):
        at = urlsplit(value)
        _ = at.port  # raises ValueError
        if not is_shared(value) or not at.hostname:
            raise ValueError("a Milvus server is milvus+http://[user:password@]host:19530[/database][?library=NAME]")
    return str(value)


def _path(value: Any) -> Path:
    if "\0" in str(value):
        raise ValueError("it holds a NUL character")
    return Path(value)


def _folder(value: Any) -> Path:
    return _path(value).expanduser().absolute()


def _folders(value: Any) -> tuple[Path, ...]:
    given = value.split(";") if isinstance(value, str) else [value] if isinstance(value, Path) else value
    return tuple(_folder(folder) for folder in given if folder)


def _number(value: Any, least: float, most: float) -> float:
    number = float(value)
    if isinstance(value, bool) or not least <= number <= most:  # also NaN
        raise ValueError(f"it must be a number from {least:g} to {most:g}")
    return number


def _timeout(value: Any) -> float:
    if float(value) <= 0:
        raise ValueError("it must be above 0 seconds")
    return _number(value, 0, 86_400)


def _allowed(value: Any) -> tuple[str, ...]:
    return tuple(_address(each).strip().rstrip("/") for each in (value.split(";") if isinstance(value, str) else value))


def _hide(value: Any) -> tuple[str, ...]:
    words = re.split(r"[\s,;]+", value.strip().lower()) if isinstance(value, str) else list(value)
    wanted = set(words) - {"none"}
    if wanted - set(HIDEABLE) or (wanted and "none" in words):
        raise ValueError(f"it must be some of {', '.join(HIDEABLE)}, or none")
    return tuple(flag for flag in HIDEABLE if flag in wanted)


def _path_map(value: Any) -> dict[str, str]:
    given = dict(value)
    for path in (*given, *given.values()):
        _path(path)  # raises TypeError, ValueError
    return {str(a): str(b) for a, b in given.items()}


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "home": _folder, "dt": _address, "allowed": _allowed, "token": lambda value: _text(value).strip(),
    "timeout": _timeout, "device": _text, "index": _index, "models": _folders,
    "maps_gb": lambda value: _number(value, 0, 1e9), "sync_minutes": lambda value: _number(value, 0, 1e6),
    "hide": _hide, "path_map": _path_map,
}  # fmt: skip

ENVIRONMENT = {
    "dt": "DT_API_URL",
    "allowed": "LUNA_DT_ALLOWED",
    "token": "DT_API_TOKEN",
    "timeout": "LUNA_DT_TIMEOUT",
    "device": "LUNA_DT_DEVICE",
    "index": "LUNA_DT_INDEX",
    "models": "LUNA_DT_MODELS",
    "maps_gb": "LUNA_DT_MAPS_GB",
    "sync_minutes": "LUNA_DT_SYNC_MINUTES",
    "hide": "LUNA_DT_HIDE",
    "path_map": "LUNA_DT_PATH_MAP",
}


def default_home() -> Path:
    """Where the home is, and where it is said where else it is."""
    return platformdirs.user_data_path("luna_dt", appauthor=False).absolute()


def parsed(text: str) -> dict[str, Any]:
    """What a ``settings.toml`` says; raises ValueError, RecursionError."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def written(home: Path) -> dict[str, Any]:
    """What a home's ``settings.toml`` says, as it stands there; raises SettingsError."""
    path = home / FILE
    try:
        values = parsed(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path} cannot be read: {shown(error, 300)}") from error
    unknown = sorted(set(values) - set(ENVIRONMENT) - {"home"})
    if unknown:
        raise SettingsError(
            f"{path} names unknown settings: {shown(', '.join(unknown), 200)}; known: {', '.join(ENVIRONMENT)}"
        )
    return values
