"""A grant opens exactly its object for a confined process; everything else stays as closed as without it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from roadworthy.foundation.confine import landlock
from roadworthy.foundation.confine.launcher import NOT_CONFINED, NOT_THERE
from roadworthy.foundation.confine.plan import BEST_EFFORT, REQUIRED
from tests.faults.g5_detours import WAYS
from tests.faults.g5_surroundings import Surroundings, surroundings
from tests.faults.test_g5_confinement import USERS

DETOURS = Path(__file__).with_name("g5_detours.py")
READ = "import sys; print(open(sys.argv[1]).read())"
ASK = "import fcntl, sys; fcntl.ioctl(open(sys.argv[1], 'rb+', 0), int(sys.argv[2]), bytearray(64)); print('answered')"
DEVICES = (("/dev/net/tun", 0x800454CF), ("/dev/kvm", 0xAE03), ("/dev/loop-control", 0x4C82))
"""Devices with an ioctl that they answer without changing state."""
SHOW = "import sys; print(sys.argv[1:])"


@pytest.fixture(params=USERS)
def around(request: pytest.FixtureRequest) -> Iterator[Surroundings]:
    """The surroundings of a process, for each user, with data and a second server."""
    with tempfile.TemporaryDirectory(prefix="roadworthy-g5-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with surroundings(Path(folder), request.param) as made, socket.create_server(("127.0.0.1", 0)) as other:
            data = made.folder / "data"
            data.mkdir()
            (data / "rates.csv").write_text("the rates")
            (data / "other.csv").write_text("others")
            (data / "newest.csv").symlink_to("rates.csv")
            shutil.copy(DETOURS, made.folder / "package" / "detours.py")
            made.target["granted"], made.target["other"] = made.target["tcp"], other.getsockname()[1]
            yield made


def said(around: Surroundings, command: list[str], *grants: str, without: tuple[str, ...] = (), policy: str = REQUIRED) -> str:
    """The output of a process with these grants; empty when it fails."""
    return around.run(around.confined([around.python, *command], policy, grants), *without).stdout.strip()


def found(around: Surroundings, *grants: str) -> set[str]:
    """The findings of the hostile probe with these grants."""
    return set(json.loads(said(around, ["-P", str(around.folder / "package" / "probe.py"), json.dumps(around.target)], *grants)))


def ways(around: Surroundings, *grants: str, without: tuple[str, ...] = (), policy: str = REQUIRED) -> set[str]:
    """The ways out with these grants."""
    command = ["-P", str(around.folder / "package" / "detours.py"), json.dumps(around.target)]
    return set(json.loads(said(around, command, *grants, without=without, policy=policy)))


def test_g5_without_confinement_every_way_is_open(around: Surroundings) -> None:
    """The control. Raw packets need a privilege, multipath TCP a kernel that has it; a socket pair stays a pair."""
    result = around.run([around.python, str(around.folder / "package" / "detours.py"), json.dumps(around.target)])
    every = {way.__name__ for way in WAYS} - {"raw", "multipath", "upper_protocol", "unix_from_a_pair"}
    assert every <= set(json.loads(result.stdout))


def test_g5_a_port_that_was_granted_is_all_that_is_open(around: Surroundings) -> None:
    """No other port, no UDP, no detour; the rest is as without the grant. A grant of another port does not open this one."""
    assert found(around, f"tcp:{around.target['tcp']}") == {"tcp"}
    assert ways(around, f"tcp:{around.target['granted']}") == {"granted_port"}
    assert found(around, f"tcp:{around.target['other']}") == set()
    assert ways(around) == set()


def test_g5_the_network_is_what_goes_out(around: Surroundings) -> None:
    """Outgoing TCP and UDP to anywhere; incoming connections, Unix sockets, other processes and the home stay closed."""
    assert found(around, "network") == {"tcp", "udp"}
    out = {
        "granted_port",
        "other_port",
        "by_ipv6",
        "fast_open",
        "fast_open_in_memory",
        "datagram",
        "connected_datagram",
    }
    assert ways(around, "network") - {"upper_protocol"} == out


def test_g5_names_are_resolved_with_the_network_only(around: Surroundings) -> None:
    """A resolver sends UDP. With a port alone, names that the machine itself knows are still resolved."""
    resolve = "import socket; print(socket.getaddrinfo('localhost', 80)[0][4][1])"
    assert said(around, ["-c", resolve], "network") == "80"
    assert said(around, ["-c", resolve], f"tcp:{around.target['tcp']}") == "80"


@pytest.mark.parametrize("grants", [("network",), ("tcp:1",)], ids=str)
def test_g5_grants_need_no_namespace(around: Surroundings, grants: tuple[str, ...]) -> None:
    """As in a container: creating a socket that is not granted is refused."""
    closed = {"unix", "abstract", "unix_from_a_pair", "bound", "listening", "raw", "multipath"}
    assert ways(around, *grants, without=("capabilities", "unshare")) & closed == set()


def test_g5_a_file_that_was_granted_is_read(around: Surroundings) -> None:
    """This file and no other, through a link that was resolved when the plan was made; a folder with all its content."""
    rates, other = (str(around.folder / "data" / name) for name in ("rates.csv", "other.csv"))
    newest = f"read:{around.folder}/data/newest.csv"
    assert said(around, ["-c", READ, rates]) == ""
    for grant in (f"read:{rates}", newest):
        assert said(around, ["-c", READ, rates], grant) == "the rates"
        assert said(around, ["-c", READ, other], grant) == ""
        assert found(around, grant) == set()
    assert said(around, ["-c", READ, other], f"read:{around.folder}/data") == "others"
    assert said(around, ["-c", f"open({other!r}, 'a')\nprint('written')"], f"read:{around.folder}/data") == ""


def test_g5_what_was_granted_must_be_there(around: Surroundings) -> None:
    """Otherwise the command learns it and executes nothing, even with best-effort. The same holds for a path that has become a
    link, a file granted as a device, and a device granted as a file."""
    rates = around.folder / "data" / "rates.csv"
    for policy in (REQUIRED, BEST_EFFORT):
        gone = f"read:{around.folder}/data/gone.csv"
        assert said(around, ["-c", SHOW], gone, policy=policy) == f"['{NOT_THERE}{gone}']"
    assert said(around, ["-c", SHOW], f"read:{rates}") == "[]"
    command = around.confined([around.python, "-c", SHOW], REQUIRED, (f"read:{rates}",))
    rates.unlink()
    rates.symlink_to(around.folder / "home" / "context.json")
    assert around.run(command).stdout.strip() == f"['{NOT_THERE}read:{rates}']"
    assert said(around, ["-c", SHOW], "device:/dev/shm") == f"['{NOT_THERE}device:/dev/shm']"


def test_g5_a_device_that_was_granted_answers(around: Surroundings) -> None:
    """It also accepts its own ioctls; another device cannot even be opened."""
    if around.user != os.geteuid():
        pytest.skip("devices belong to this user")
    for path, question in DEVICES:
        with contextlib.suppress(OSError), open(path, "rb+", 0) as device:  # noqa: PTH123 - pathlib's cannot be unbuffered
            fcntl.ioctl(device, question, bytearray(64))
            break
    else:
        pytest.skip("no device here that can be asked")
    ask = ["-c", ASK, path, str(question)]
    assert said(around, ask, f"device:{path}") == "answered"
    assert said(around, ask) == ""
    assert said(around, ask, "device:/dev/null") == ""
    assert found(around, f"device:{path}") == set()


def test_g5_where_ports_cannot_be_distinguished_no_code_is_executed(around: Surroundings) -> None:
    """A kernel with an older Landlock without TCP rules. A grant of the whole network needs none; best-effort opens any port."""
    port = f"tcp:{around.target['granted']}"
    old = f"import sys; sys.path.insert(0, {str(around.folder)!r})\n"
    old += "from roadworthy.foundation.confine import landlock, launcher\n"
    old += "landlock._NET_SINCE = landlock._SCOPED_SINCE = 99\nlauncher.main(sys.argv[1], sys.argv[2:])"

    def told(policy: str, grant: str, *command: str) -> str:
        *_, plan, python, dash, program = around.confined([around.python, "-c", SHOW], policy, (grant,))
        rest = list(command) or [python, dash, program]
        return around.run([around.python, "-I", "-c", old, plan, *rest]).stdout.strip()

    assert landlock.knows_ports(landlock.version())
    assert told(REQUIRED, port) == f"['{NOT_CONFINED}']"
    assert told(REQUIRED, "network") == "[]"
    assert told(BEST_EFFORT, port) == "[]"
    detours = [around.python, str(around.folder / "package" / "detours.py"), json.dumps(around.target)]
    assert set(json.loads(told(BEST_EFFORT, port, *detours))) - {"by_ipv6"} == {"granted_port", "other_port"}
