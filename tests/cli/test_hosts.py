"""G13: a server that listens on all addresses prints its accepted host names, and the setting for more."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from roadworthy.cli.launch import control_socket, gateway_sockets
from roadworthy.cli.plans import known_hosts
from roadworthy.settings import load_settings

LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
EVERYWHERE = "0.0.0.0"  # noqa: S104 - this is about just that
MACHINE = socket.gethostname().lower()


@pytest.mark.parametrize(
    ("host", "configured", "known"),
    [
        ("127.0.0.1", None, LOOPBACK),
        ("10.1.2.3", None, [*LOOPBACK, "10.1.2.3"]),
        ("fd00::1", None, [*LOOPBACK, "[fd00::1]"]),
        (EVERYWHERE, None, [*LOOPBACK, MACHINE]),
        ("::", ("models.example",), [*LOOPBACK, MACHINE, "models.example"]),
        ("127.0.0.1", ("models.example", "localhost"), [*LOOPBACK, "models.example"]),
    ],
)
def test_g13_what_is_configured_is_known_besides(host: str, configured: Any, known: list[str]) -> None:
    """Configured names are added to the default ones: this machine's command line calls loopback."""
    assert known_hosts(host, configured) == known


def test_g13_all_addresses_are_told_with_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gateway and control plane print it when their sockets are bound, but not for loopback alone or with any name accepted."""
    base = {"ROADWORTHY_HOME": str(tmp_path), "ROADWORTHY_GATEWAY_METRICS_PORT": "0"}
    for plane, variable in (("gateway", "GATEWAY"), ("control", "CONTROL")):
        port = {f"ROADWORTHY_{variable}_PORT": "0"}
        everywhere = {
            f"ROADWORTHY_{variable}_HOST": EVERYWHERE,
            f"ROADWORTHY_{variable}_ALLOWED_HOSTS": "models.example",
        }
        assert _said(plane, {**base, **port}, capsys) == ""
        told = _said(plane, {**base, **port, **everywhere}, capsys)
        assert f"{', '.join(LOOPBACK)}, {MACHINE}, models.example" in told
        assert f"{plane}.allowed_hosts (ROADWORTHY_{variable}_ALLOWED_HOSTS)" in told
        any_name = {**everywhere, f"ROADWORTHY_{variable}_ALLOWED_HOSTS": "*"}
        assert _said(plane, {**base, **port, **any_name}, capsys) == ""


def _said(plane: str, environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    settings = load_settings(environment=environment, folder=Path("/nonexistent"))
    with gateway_sockets(settings) if plane == "gateway" else control_socket(settings, "--port"):
        return capsys.readouterr().err
