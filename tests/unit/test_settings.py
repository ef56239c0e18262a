from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from luna_dt import Settings
from luna_dt.errors import SettingsError
from luna_dt.settings_file import write


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
        ("timeout = inf", "from 0 to 86400"),
        ("timeout = nan", "from 0 to 86400"),
        ("timeout = []", "timeout cannot be"),
        ("timeout = true", "must be a number"),
        ("maps_gb = inf", "maps_gb cannot be inf"),
        ("maps_gb = 1e300", "maps_gb cannot be"),
        ("maps_gb = nan", "maps_gb cannot be nan"),
        ("maps_gb = 2026-01-01", "maps_gb cannot be"),
        ("dt = 5", "the setting dt cannot be 5: it must be a text"),
        ("dt = ['http://x']", "it must be a text"),
        ("dt = 'http://[::1'", "Invalid IPv6 URL"),
        ("dt = 'http://h:99999'", "[Pp]ort"),
        ("dt = 'http://h:x'", "[Pp]ort"),
        ('dt = "http://h/\\u001b[2J"', "control characters"),
        ("token = 5", "token cannot be that: it must be a text"),
        ('token = "secret\\nX-Header: y"', "token cannot be that: it holds control characters"),
        ("device = 1", "device cannot be 1"),
        ("index = true", "index cannot be True"),
        ("models = 5", "models cannot be 5"),
        ("hide = 5", "hide cannot be 5"),
        ("hide = [5]", "some of delete, unavailable, nsfw, or none"),
        ("hide = 'deleted'", "some of delete, unavailable, nsfw, or none"),
        ("hide = ['none', 'nsfw']", "or none"),
        ("models = [5]", "models cannot be"),
        ('models = ["a\\u0000b"]', "NUL"),
        ("models = ['~nobody-of-this-name/x']", "models cannot be"),
        ("allowed = 5", "allowed cannot be 5"),
        ("allowed = [5]", "it must be a text"),
        ("allowed = ['http://[::1']", "Invalid IPv6 URL"),
        ("path_map = 5", "path_map cannot be 5"),
        ("path_map = [[1]]", "path_map cannot be"),
        ("[path_map]\n'D:' = 5", "path_map cannot be"),
        ("timeout = " + "9" * 5000, "cannot be read|cannot be"),
        ("x = " + "[" * 100_000, "cannot be read"),
        ('"\\u001b[2J" = 1', "unknown settings: \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=told) as raised:
        Settings.load(tmp_path, environ={})
    assert not set(str(raised.value)) & {"\0", "\x1b"}
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LUNA_DT_HOME", "~nobody-of-this-name/x", "home cannot be"),
        ("LUNA_DT_TIMEOUT", "1e400", "from 0 to 86400"),
        ("LUNA_DT_MAPS_GB", "viele", "could not convert"),
        ("LUNA_DT_HIDE", "nsfw, rated", "hide cannot be"),
        ("DT_API_URL", "http://[::1", "Invalid IPv6 URL"),
        ("DT_API_URL", "http://\udcff", "half of one"),
        ("DT_API_TOKEN", "half \ud83d", "half of one"),
    ],
)
def test_a_bad_environment_is_told(tmp_path: Path, name: str, value: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Settings.load(environ={"LUNA_DT_HOME": str(tmp_path), name: value})


def test_a_token_may_be_in_any_script(tmp_path: Path) -> None:
    assert Settings.load(tmp_path, environ={"DT_API_TOKEN": " ключ 鍵 "}).token == "ключ 鍵"


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


@pytest.mark.parametrize(
    ("text", "variable", "hide"),
    [
        ("", "", None),
        ("hide = ['nsfw', 'delete']", "", ("delete", "nsfw")),
        ("hide = []", "", ()),
        ("hide = 'none'", "", ()),
        ("hide = []", "NSFW; unavailable", ("unavailable", "nsfw")),
        ("hide = ['nsfw']", "none", ()),
    ],
)
def test_what_is_hidden_is_named_as_in_queries(
    tmp_path: Path, text: str, variable: str, hide: tuple[str, ...] | None
) -> None:
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    assert Settings.load(tmp_path, environ={"LUNA_DT_HIDE": variable}).hide == hide


# -- changed by a program ---------------------------------------------------------------------------

BY_HAND = """# mine
dt = 'D:\\DT'   # portable
allowed = [
    "http://a:1",  # the other one
]
device = "cpu"

[path_map]
'D:\\Bilder' = '/mnt/d'
"""


def test_a_value_is_changed_and_what_stands_around_it_stays(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(BY_HAND, encoding="utf-8")
    write(tmp_path, {"device": None, "index": "exact", "path_map": {"E:\\it's": 'F:\\"x"'}})
    assert file.read_text(encoding="utf-8").startswith("# mine\ndt = 'D:\\DT'   # portable\nallowed = [\n")
    settings = Settings.load(tmp_path, environ={})
    assert (settings.dt, settings.device, settings.index) == ("D:\\DT", "auto", "exact")
    assert settings.allowed == ("http://a:1",)
    assert settings.path_map == {"E:\\it's": 'F:\\"x"'}
    write(tmp_path, {"path_map": None, "dt": "C:\\Größe 猫"})
    again = Settings.load(tmp_path, environ={})
    assert (again.path_map, again.dt, again.index) == ({}, "C:\\Größe 猫", "exact")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["settings.toml"]


def test_a_file_is_changed_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    for text, changes, told in (
        ("path_map.a = 'b'\n", {"path_map": {"c": "d"}}, "edit it by hand|only a person"),
        ("dt = ", {"dt": "http://x"}, "cannot be changed"),
        ("", {"index": "milvus://x"}, "index cannot be"),
        ("", {"dt": "http://x\ny"}, "control characters"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=told):
            write(tmp_path, changes)
        assert file.read_text(encoding="utf-8") == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    write(tmp_path / "new" / "home", {"token": "secret"})
    file = tmp_path / "new" / "home" / "settings.toml"
    assert Settings.load(file.parent, environ={}).token == "secret"
    assert os.name == "nt" or file.stat().st_mode & 0o077 == 0


def test_the_default_home_may_say_where_the_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: tmp_path / "default")
    write(tmp_path / "default", {"home": str(tmp_path / "large"), "dt": "http://old:1"})
    write(tmp_path / "large", {"dt": "http://new:2"})
    settings = Settings.load(environ={})
    assert (settings.home, settings.dt) == (tmp_path / "large", "http://new:2")
    assert Settings.load(environ={"LUNA_DT_HOME": str(tmp_path / "default")}).dt == "http://old:1"
    write(tmp_path / "large", {"home": str(tmp_path / "third")})
    with pytest.raises(SettingsError, match="names another home"):
        Settings.load(environ={})


@pytest.mark.parametrize("around", ['"{}"', "'{}'", " {} ", '" {}"\n', "{}"])
@pytest.mark.parametrize("address", ["http://host:5000", r"D:\My Pictures"])
def test_an_address_may_be_in_quotes(around: str, address: str, tmp_path: Path) -> None:
    assert Settings.load(tmp_path, {"DT_API_URL": around.format(address)}).dt == address


@pytest.mark.parametrize("end", ["/api", "/api/"])
def test_an_address_may_end_where_calls_begin(end: str, tmp_path: Path) -> None:
    assert Settings.load(tmp_path, {"DT_API_URL": f"https://host/dt{end}"}).dt == "https://host/dt"
    assert Settings.load(tmp_path, {"DT_API_URL": f"/srv{end}"}).dt == f"/srv{end}"


@pytest.mark.parametrize("address", ["http://host:5000/?a=1", "http://host:5000/#images"])
def test_a_servers_address_is_only_that(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ends before"):
        Settings.load(tmp_path, {"DT_API_URL": address})
