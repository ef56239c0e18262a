"""The settings as ComfyUI's dialog shows and changes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from luna_dt import Library, Settings
from luna_dt.errors import BadInput, LunaError
from luna_dt.gallery import choices
from luna_dt.gallery.answers import Gallery
from luna_dt.settings_file import write

SECRET = "s3cret"


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The default home, of which the settings name a server with a token."""
    home = tmp_path / "default"
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: home)
    write(home, {"dt": "http://here:5000", "token": SECRET, "path_map": {"D:\\a": "/a"}})
    return home


def values(environ: dict[str, str] | None = None) -> dict[str, Any]:
    return {name: each["value"] for name, each in choices.told(environ or {})["settings"].items()}


def test_a_token_goes_in_and_never_comes_out(default: Path) -> None:
    assert values()["token"] is True
    choices.change({"token": "another"}, {})
    assert Settings.load(environ={}).token == "another"
    choices.change({"dt": f"postgresql://u:{SECRET}@h/d", "token": ""}, {})
    told = json.dumps(choices.told({}))
    assert "postgresql://u:***@h/d" in told
    assert SECRET not in told
    assert "another" not in told
    choices.change({"dt": "postgresql://u:***@h/d", "device": "cpu"}, {})  # as it was shown
    assert Settings.load(environ={}).dt == f"postgresql://u:{SECRET}@h/d"
    with pytest.raises(BadInput, match="anew"):
        choices.change({"dt": "postgresql://u:***@stranger/d"}, {})


def test_another_address_is_not_sent_the_token(default: Path) -> None:
    choices.change({"dt": "http://here:5000/dt"}, {})
    assert Settings.load(environ={}).token == SECRET
    choices.change({"dt": "http://stranger"}, {})
    assert Settings.load(environ={}).token == ""
    environ = {"DT_API_TOKEN": SECRET}
    with pytest.raises(BadInput, match="belongs to"):
        choices.change({"dt": "http://another"}, environ)
    choices.change({"dt": "http://another", "token": "its own"}, {})
    assert Settings.load(environ={}).token == "its own"


def test_the_environment_wins_and_is_shown_as_such(default: Path) -> None:
    environ = {"LUNA_DT_HIDE": "none", "LUNA_DT_DEVICE": "cpu"}
    told = choices.told(environ)["settings"]
    assert told["hide"] == {"value": "none", "source": "environment", "variable": "LUNA_DT_HIDE"}
    assert (told["dt"]["source"], told["index"]["source"], told["home"]["source"]) == ("file", "default", "default")
    with pytest.raises(BadInput, match="LUNA_DT_DEVICE"):
        choices.change({"device": "cuda:0"}, environ)


def test_a_home_elsewhere_begins_with_these_settings(default: Path, tmp_path: Path) -> None:
    choices.change({"home": str(tmp_path / "large"), "device": "cpu"}, {})
    now = Settings.load(environ={})
    assert (now.home, now.dt, now.device, now.token) == (tmp_path / "large", "http://here:5000", "cpu", SECRET)
    assert now.path_map == {"D:\\a": "/a"}
    assert Settings.load(default, environ={}).device == "auto"
    choices.change({"home": ""}, {})
    assert Settings.load(environ={}).home == default
    with pytest.raises(BadInput, match="whole path"):
        choices.change({"home": "large"}, {})


@pytest.mark.parametrize(
    "asked",
    [{"colour": "red"}, {"allowed": "http://x"}, {"dt": 5}, {"dt": "x" * 5000}, {"path_map": "a=b"},
     {"path_map": {"a": 5}}, {"path_map": {"a": ""}}, {"hide": "rated"}, {"dt": "http://h:x"}],
)  # fmt: skip
def test_nonsense_changes_nothing(default: Path, asked: dict[str, Any]) -> None:
    before = (default / "settings.toml").read_bytes()
    with pytest.raises(LunaError):
        choices.change(asked, {})
    assert (default / "settings.toml").read_bytes() == before


def test_only_who_serves_the_page_lets_it_change_settings(library: Library) -> None:
    for method in ("GET", "POST"):
        assert Gallery(lambda: library).answer(method, "settings", {}).status == 404
