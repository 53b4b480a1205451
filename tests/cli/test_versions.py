"""`roadworthy version show | download | delete` against a real control plane."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from roadworthy.cli import exits
from roadworthy.package.archive import open_package
from tests.cli.conftest import Run, read
from tests.control.fleet import LINE, Fleet
from tests.control_plane import ControlProcess, endpoint_when


@pytest.fixture
def version(run: Run, control: ControlProcess) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `roadworthy version …`."""
    return lambda *words: run("version", *words, ROADWORTHY_CONTROL_URL=control.url, ROADWORTHY_KEY=control.admin_key)


@pytest.mark.usefixtures("fleet")
def test_a_version_is_shown_downloaded_and_deleted(
    version: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The file is the version's package; only a version that no endpoint holds can be deleted, once."""
    shown = read(version("show", "line:1", "--json"))
    text = version("show", "line:1").stdout
    assert (shown["version"], shown["serving"]) == (1, ["line"])
    for part in ("line:1", shown["digest"], "held by   line", "FIELD", "float64"):
        assert part in text
    got = read(version("download", "line:1", "--json"))
    assert got["path"] == "line-1.rw"
    assert open_package(tmp_path / "line-1.rw").digest == got["digest"] == shown["digest"]
    assert version("download", "line:1", "--out", "other.rw").stdout == f"other.rw\n  {shown['digest']}\n"
    assert "no endpoint" in version("show", "line:3").stdout
    assert version("delete", "line:3").stdout == "line:3 deleted\n"
    for words, status, code in (
        (("delete", "line:1"), exits.REFUSED, "version-serving"),
        (("delete", "line:3"), exits.NOT_FOUND, "unknown-version"),
        (("show", "line:3"), exits.NOT_FOUND, "unknown-version"),
        (("download", "line:3"), exits.NOT_FOUND, "unknown-version"),
        (("download", "line:1"), exits.REFUSED, "file-exists"),
        (("show", "line"), exits.USAGE, "invalid-reference"),
    ):
        result = version(*words)
        assert (result.returncode, result.stdout) == (status, ""), words
        assert f"code: {code}" in result.stderr, words
    assert {path.name for path in tmp_path.glob("*.rw*")} == {"line-1.rw", "other.rw"}


def test_a_version_to_go_back_to_cannot_be_deleted(
    version: Callable[..., subprocess.CompletedProcess[str]], control: ControlProcess, fleet: Fleet
) -> None:
    """Nor one that is loading."""
    with control.client(control.admin_key) as admin:
        admin.put(LINE, json={"version": "line:2"})
        assert "version-serving" in version("delete", "line:2").stderr
        fleet.follow()
        assert endpoint_when(admin, lambda found: found["previous"])["previous"] == "line:1"
    refused = version("delete", "line:1")
    assert "line:1 is held by endpoint line" in refused.stderr
