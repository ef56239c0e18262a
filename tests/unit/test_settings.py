from __future__ import annotations

from pathlib import Path

import pytest

from luna_dt import Settings
from luna_dt.errors import SettingsError


def test_environment_wins_over_file_over_default(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(
        "dt = 'http://file:1'\ntimeout = 7\n[path_map]\n'D:\\Bilder' = '/mnt/d'\n", encoding="utf-8"
    )
    settings = Settings.load(environ={"LUNA_DT_HOME": str(tmp_path), "DT_API_URL": "http://env:2"})
    assert settings.home == tmp_path
    assert settings.dt == "http://env:2"
    assert settings.timeout == 7
    assert settings.path_map == {"D:\\Bilder": "/mnt/d"}
    assert settings.device == "auto"
    assert settings.models_folders[0] == tmp_path / "models"


def test_an_argument_wins_over_the_environment(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path / "a", environ={"LUNA_DT_HOME": str(tmp_path / "b")})
    assert settings.home == tmp_path / "a"
    assert settings.replace(dt=None).dt == "http://localhost:5000"


def test_path_map_in_the_environment(tmp_path: Path) -> None:
    environ = {"LUNA_DT_HOME": str(tmp_path), "LUNA_DT_PATH_MAP": r"D:\a=/mnt/a; E:\b = /mnt/b"}
    assert Settings.load(environ=environ).path_map == {"D:\\a": "/mnt/a", "E:\\b": "/mnt/b"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dt = ", "cannot be read"),
        ("colour = 'red'", "unknown settings: colour"),
        ("timeout = 'soon'", "could not convert"),
        ("timeout = -1", "above 0"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=told):
        Settings.load(tmp_path, environ={})


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://u:p@ss@h:5436/d?schema=x", "postgresql://u:***@h:5436/d?schema=x"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql:///d?host=/tmp&password=secret&user=u", "postgresql:///d?host=/tmp&password=***&user=u"),
        ("http://localhost:5000", "http://localhost:5000"),
    ],
)
def test_secrets_are_not_shown(tmp_path: Path, address: str, shown: str) -> None:
    assert Settings(home=tmp_path, dt=address).shown_dt == shown


def test_the_token_is_not_shown(tmp_path: Path) -> None:
    assert "secret" not in repr(Settings(home=tmp_path, token="secret"))
