"""One process holds a home folder; its end frees it, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from roadworthy.foundation.errors import Conflict
from roadworthy.foundation.pidfile import hold_pid_file, running_pid

HOLD = """
import sys
from pathlib import Path
from roadworthy.foundation.pidfile import hold_pid_file
with hold_pid_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_kill_9_frees(tmp_path: Path) -> None:
    """The error names the process that holds the file; after kill -9 the file can be held at once."""
    path = tmp_path / "supervisor.pid"
    assert running_pid(path) is None
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert running_pid(path) == holder.pid
        with pytest.raises(Conflict) as raised, hold_pid_file(path):
            pass
        assert (raised.value.code, raised.value.facts) == ("already-running", {"pid": holder.pid})
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert running_pid(path) is None
    with hold_pid_file(path):
        assert running_pid(path) == os.getpid()
    assert running_pid(path) is None
