"""A child reads one line, and notices when its parent is gone."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from roadworthy.foundation.errors import SettingsError
from tests.waiting import DEADLINE_S

CHILD = """
import json, sys, threading
from roadworthy.foundation.child import read_start_message, watch_parent
document = read_start_message()
watch_parent(lambda: print("gone", flush=True), exit_after_s=float(document["exit_after_s"]))
print(json.dumps([document, sys.stdin.read()]), flush=True)
threading.Event().wait(600)
"""

PARENT = """
import subprocess, sys, threading
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
child.stdin.write(b'{"exit_after_s": 0}\\n'); child.stdin.flush()
threading.Event().wait(600)
"""


def test_the_document_arrives_and_standard_input_is_empty_afterwards() -> None:
    """The child gets the JSON line; code that reads standard input later finds nothing and takes nothing away."""
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write('{"exit_after_s": 0, "é": [1]}\n')
    child.stdin.flush()
    assert child.stdout.readline() == '[{"exit_after_s": 0, "\\u00e9": [1]}, ""]\n'
    out, _ = child.communicate(timeout=DEADLINE_S)
    assert (out, child.returncode) == ("gone\n", 1)


def test_kill_9_of_the_parent_ends_the_child() -> None:
    """The kernel closes the pipe of a killed parent; a child that does not exit by itself is ended by force."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("[{")
    parent.send_signal(signal.SIGKILL)
    assert parent.communicate(timeout=DEADLINE_S)[0] == "gone\n"  # the pipe's end: no child holds it any more


@pytest.mark.parametrize("line", ["", "no json\n", "[1]\n", '{"a": 1'])
def test_anything_but_a_document_is_refused(line: str) -> None:
    """Started by hand, the process says what should start it."""
    code = "from roadworthy.foundation.child import read_start_message as read; read()"
    result = subprocess.run([sys.executable, "-c", code], input=line, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert SettingsError.__name__ in result.stderr
    assert "not by hand" in result.stderr
