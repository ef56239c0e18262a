"""``luna-dt serve`` held to its own OpenAPI by schemathesis: what it allows and what it forbids, with all checks."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None, reason="there is no schemathesis (it needs Python 3.11)"
    ),
]

SECONDS = 45  # by hand 20 minutes: --max-time 1200
#: What cannot be said in a schema (a query's grammar, base64 that is a picture) may be refused, in the ways declared.
CHECKS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 400, 401, 403, 404, 409, 413, 414, 422, 501, 503]
"""


def test_the_server_keeps_its_own_description(server: str, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    config.write_text(CHECKS, encoding="utf-8")
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{server}/openapi.json"]
    options = ["--checks", "all", "--max-time", str(SECONDS), "--request-timeout", "30", "--no-color"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5000:]
    assert "Tested: 18" in run.stdout
