"""Listening sockets say exactly what is wrong; Unix sockets work under paths longer than the kernel takes."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.sockets import listen, unix_address
from tests.waiting import DEADLINE_S


def test_port_zero_takes_a_free_one() -> None:
    """The socket listens on the port that it reports."""
    with listen("127.0.0.1", 0) as listener:
        assert socket.create_connection(listener.getsockname(), timeout=DEADLINE_S).close() is None


def test_an_address_of_another_machine_is_refused() -> None:
    """An address that this machine cannot bind is an error with its own code, not a crash."""
    with pytest.raises(SettingsError) as raised:
        listen("192.0.2.1", 0)
    assert raised.value.code == "address-unusable"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems refuse with path-too-long")
def test_long_unix_paths_work_for_both_ends(tmp_path: Path) -> None:
    """A path of 200 characters can be bound and connected to."""
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    path = folder / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        with unix_address(path) as address:
            listener.bind(address)
        listener.listen()
        with unix_address(path) as address:
            caller.connect(address)
    assert path.is_socket()


def test_short_unix_paths_stay_as_they_are() -> None:
    """The detour is only for long paths."""
    with unix_address(Path("/run/agent.sock")) as address:
        assert address == "/run/agent.sock"
