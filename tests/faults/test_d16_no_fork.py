"""D16: processes start by exec only. A fork of a process with threads would inherit locks and sockets."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.waiting import DEADLINE_S

SOURCE = Path(__file__).parents[2] / "src" / "roadworthy"
_OS = {"fork", "forkpty", "spawnv", "posix_spawn", "register_at_fork"}
_MODULES = {"multiprocessing", "pty"}
_NAMES = {"ProcessPoolExecutor", "preexec_fn"}
ALLOWED = {
    "embedded/endpoint.py:register_at_fork": "an application that forks must not go on with the core of its parent",
    "foundation/host.py:register_at_fork": "a model's own fork must not hear its parent's signals",
    "foundation/confine/namespaces.py:fork": "the launcher has one thread and nothing open; its child tries a namespace and ends",
    "foundation/log_stream.py:register_at_fork": "a model's own fork must not inherit the log's lock",
}


def forks(source: Path) -> list[str]:
    """Places that fork, import what forks, or run Python between fork and exec."""
    found = []
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Attribute):
                of_os = isinstance(node.value, ast.Name) and node.value.id == "os"
                names = {node.attr} & (_OS if of_os else _NAMES)
            elif isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & _MODULES
            elif isinstance(node, ast.ImportFrom):
                named = {alias.name for alias in node.names}
                names = ({str(node.module).partition(".")[0]} & _MODULES) | (named & _NAMES)
                names |= (named & _OS) if node.module == "os" else set()
            elif isinstance(node, ast.keyword):
                names = {str(node.arg)} & _NAMES
            found += [f"{path.relative_to(source).as_posix()}:{name}" for name in sorted(names)]
    return found


def test_d16_nothing_forks() -> None:
    """`subprocess` starts children, and execs at once."""
    assert [place for place in forks(SOURCE) if place not in ALLOWED] == []


def test_d16_planted_forks_are_found(tmp_path: Path) -> None:
    """Each way to fork."""
    (tmp_path / "bad.py").write_text(
        "import os, multiprocessing.pool\nfrom os import forkpty\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "os.fork()\nsubprocess.Popen([], preexec_fn=print)\n"
    )
    assert sorted(forks(tmp_path)) == [
        f"bad.py:{name}" for name in ("ProcessPoolExecutor", "fork", "forkpty", "multiprocessing", "preexec_fn")
    ]


def test_d16_a_fork_of_the_models_own_can_log(tmp_path: Path) -> None:
    """Forked while another thread holds the log's lock and lines wait: the lines of child and parent are both written."""
    code = """
import os, sys, threading
from roadworthy.foundation.log_stream import LogStream
stream = LogStream(2, str)
stream.write("before\\n")
stream.drain(5)
with stream._some:
    pid = os.fork()
    if pid == 0:
        stream.write("child\\n")
        assert stream.drain(5)
        os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
stream.write("parent\\n")
assert stream.drain(5)
print('"ok"')
"""
    # Python 3.12 warns of forks beside threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False)
    assert json.loads(done.stdout) == "ok", done.stderr
    assert done.stderr.splitlines() == ["before", "child", "parent"]
