"""Where things are and what is allowed: environment first, then ``settings.toml`` in the home, then defaults.

| setting    | environment       | settings.toml             | default                                   |
|------------|-------------------|---------------------------|-------------------------------------------|
| home       | LUNA_DT_HOME      |                           | the platform's user data folder           |
| dt         | DT_API_URL        | dt = "…"                  | http://localhost:5000, else installed DT  |
| allowed    | LUNA_DT_ALLOWED   | allowed = ["http://…"]    | none; addresses a workflow may name, "; " |
| token      | DT_API_TOKEN      | token = "…"               | none                                      |
| timeout    | LUNA_DT_TIMEOUT   | timeout = 30              | 30 s for one answer of DT                 |
| device     | LUNA_DT_DEVICE    | device = "cuda:0"         | auto (CUDA, then MPS, then CPU)           |
| index      | LUNA_DT_INDEX     | index = "exact"           | auto (index/engines.py chooses)           |
| models     | LUNA_DT_MODELS    | models = ["…"]            | folders; ``models`` in the home is last   |
| maps_gb    | LUNA_DT_MAPS_GB   | maps_gb = 10              | 10: gigabytes of ControlNet maps to keep  |
| path_map   | LUNA_DT_PATH_MAP  | [path_map] DT's = "ours"  | empty; in the environment ``A=B;C=D``     |
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from .errors import SettingsError

DEFAULT_DT = "http://localhost:5000"


@dataclass(frozen=True)
class Settings:
    """One library's settings; ``Settings.load()`` reads them, ``replace()`` changes single ones."""

    home: Path
    dt: str = DEFAULT_DT
    allowed: tuple[str, ...] = ()
    token: str = field(default="", repr=False)
    timeout: float = 30.0
    device: str = "auto"
    index: str = "auto"
    models: tuple[Path, ...] = ()
    maps_gb: float = 10.0
    path_map: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown_dt(self) -> str:
        """DT's address without its secrets, to be shown and stored."""
        return without_secrets(self.dt)

    @property
    def maps_bytes(self) -> int:
        return int(self.maps_gb * 1e9)

    @property
    def models_folders(self) -> tuple[Path, ...]:
        """Where weights are looked for, in this order."""
        return (*self.models, self.home / "models")

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
        """Reads the settings; ``home`` wins over LUNA_DT_HOME.

        Raises SettingsError when settings.toml cannot be read, names an unknown setting, or a value
        has the wrong type.
        """
        env = os.environ if environ is None else environ
        place = home or env.get("LUNA_DT_HOME") or platformdirs.user_data_path("luna_dt", appauthor=False)
        settings = cls(home=Path(place).expanduser().absolute())
        settings = settings.replace(**_from_file(settings.home / "settings.toml"))
        given = {name: env[key] for name, key in ENVIRONMENT.items() if env.get(key)}
        if "path_map" in given:
            pairs = (pair.partition("=") for pair in given["path_map"].split(";") if pair.strip())
            return settings.replace(**{**given, "path_map": {a.strip(): b.strip() for a, _, b in pairs}})
        return settings.replace(**given)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some settings changed; None leaves one as it is."""
        values = {name: value for name, value in changes.items() if value is not None}
        try:
            if "home" in values:
                values["home"] = Path(values["home"]).expanduser().absolute()
            if "models" in values:
                given = values["models"]
                folders = given.split(";") if isinstance(given, str) else [given] if isinstance(given, Path) else given
                values["models"] = tuple(Path(folder).expanduser().absolute() for folder in folders if folder)
            if "timeout" in values:
                values["timeout"] = float(values["timeout"])
                if not values["timeout"] > 0:
                    raise ValueError("timeout must be above 0 seconds")
            if "maps_gb" in values:
                values["maps_gb"] = float(values["maps_gb"])
                if not values["maps_gb"] >= 0:
                    raise ValueError("maps_gb must be 0 or more")
            if "allowed" in values:
                given = values["allowed"]
                addresses = given.split(";") if isinstance(given, str) else list(given)
                values["allowed"] = tuple(str(address).strip().rstrip("/") for address in addresses)
            if "path_map" in values:
                values["path_map"] = {str(a): str(b) for a, b in dict(values["path_map"]).items()}
        except (TypeError, ValueError) as error:
            raise SettingsError(f"a setting cannot be used: {error}; see luna_dt/settings.py") from error
        return replace(self, **values)


def without_secrets(address: str) -> str:
    """An address with its user's password, and any password among its options, as ``***``."""
    head, at, host = address.rpartition("@")
    if at and "://" in head:
        scheme, _, user = head.partition("://")
        head = f"{scheme}://{user.partition(':')[0]}" + (":***" if ":" in user else "")
    return re.sub(r"(password=)[^&\s]*", r"\1***", head + at + host)


ENVIRONMENT = {
    "dt": "DT_API_URL",
    "allowed": "LUNA_DT_ALLOWED",
    "token": "DT_API_TOKEN",
    "timeout": "LUNA_DT_TIMEOUT",
    "device": "LUNA_DT_DEVICE",
    "index": "LUNA_DT_INDEX",
    "models": "LUNA_DT_MODELS",
    "maps_gb": "LUNA_DT_MAPS_GB",
    "path_map": "LUNA_DT_PATH_MAP",
}


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    unknown = sorted(set(values) - set(ENVIRONMENT))
    if unknown:
        raise SettingsError(f"{path} names unknown settings: {', '.join(unknown)}; known: {', '.join(ENVIRONMENT)}")
    return values
