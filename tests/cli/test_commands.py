"""The command line without a server: help, errors, exit statuses, JSON, packages and settings."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from roadworthy.cli import exits
from roadworthy.foundation import errors
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.foundation.sockets import listen
from roadworthy.version import __version__
from tests.machine import COMMAND

Run = Callable[..., subprocess.CompletedProcess[str]]


def closed_port() -> int:
    """A port without a listener."""
    with closing(listen("127.0.0.1", 0)) as socket:
        return int(socket.getsockname()[1])


def test_help_is_quick(run_installed: Run) -> None:
    """`roadworthy --help` imports no heavy module, which would make it slow."""
    assert run_installed("--help").returncode == 0
    probe = "import roadworthy.cli.main, sys; print(*{n.partition('.')[0] for n in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & {"numpy", "httpx", "rich", "pyarrow", "msgspec", "fastapi", "uvicorn", "sqlalchemy"} == set()


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["deploy"], ["version", "dogs"], ["logs", "x", "--last", "0"], ["up", "--prot"]]
)
def test_usage_errors(run: Run, arguments: list[str]) -> None:
    """Usage errors end with status 2 and print the usage on standard error."""
    result = run(*arguments)
    assert result.returncode == exits.USAGE
    assert "Usage: roadworthy" in result.stderr
    assert result.stdout == ""


def test_an_error_is_one_clear_block(run: Run) -> None:
    """Without a control plane every command says so, with code and hint on standard error, and status 5."""
    url = f"http://127.0.0.1:{closed_port()}"
    for words in (
        ["version", "list"],
        ["status"],
        ["rollback", "x"],
        ["undeploy", "x"],
        ["key", "list"],
        ["logs", "x"],
    ):
        result = run(*words, "--control-url", url)
        assert result.returncode == exits.UNREACHABLE
        lines = result.stderr.splitlines()
        assert lines[0] == f"error: no control plane answers at {url}"
        assert lines[1] == "  code: unreachable"
        assert lines[2].startswith("  hint: ")
        assert result.stdout == ""


def test_errors_as_json(run: Run) -> None:
    """With --json the error is one JSON object on standard error."""
    result = run("status", "--json", "--control-url", f"http://127.0.0.1:{closed_port()}")
    document = json.loads(result.stderr)
    assert document["code"] == "unreachable"
    assert document["error"]
    assert document["hint"]


def test_tracebacks_need_a_variable(run_installed: Run, tmp_path: Path) -> None:
    """A missing file is reported in one block; ROADWORTHY_DEBUG=1 adds the traceback."""
    words = ("push", "missing.rw")
    plain = run_installed(*words).stderr
    assert "Traceback" not in plain
    assert "code: file-problem" in plain
    assert "Traceback" in run_installed(*words, ROADWORTHY_DEBUG="1").stderr


def test_faulty_settings_are_reported_together(run: Run) -> None:
    """Two invalid variables and an invalid flag are three lines of one error, status 2."""
    result = run("up", "--workers", "0", ROADWORTHY_CONTROL_PORT="x", ROADWORTHY_LOG_LEVEL="y")
    assert result.returncode == exits.USAGE
    for text in (
        "gateway.workers (--workers)",
        "control.port (ROADWORTHY_CONTROL_PORT)",
        "log.level (ROADWORTHY_LOG_LEVEL)",
    ):
        assert text in result.stderr


def test_config_show_prints_origins_and_no_secrets(run: Run, tmp_path: Path) -> None:
    """Every setting has its value and origin; the value of a key is hidden."""
    (tmp_path / "roadworthy.toml").write_text("[gateway]\nport = 9\n")
    result = run("config", "show", "--json", ROADWORTHY_KEY="rw_secret", ROADWORTHY_ODD="1")
    shown = {entry["setting"]: entry for entry in json.loads(result.stdout)}
    assert shown["gateway.port"] == {"setting": "gateway.port", "value": 9, "origin": "roadworthy.toml"}
    assert shown["client.key"] == {"setting": "client.key", "value": "(set)", "origin": "ROADWORTHY_KEY"}
    assert "rw_secret" not in result.stdout + result.stderr
    assert "ROADWORTHY_ODD" in result.stderr
    assert "ORIGIN" in run("config", "show").stdout


def test_version(run_installed: Run) -> None:
    """`--version` prints the versions of Roadworthy and Python."""
    assert run_installed("--version").stdout == f"roadworthy {__version__} (Python {platform.python_version()})\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("list", "version list"),
        ("list --model flights", "version list"),
        ("list versions", "version list"),
        ("list --json models", "model list"),
        ("list endpoints", "endpoint list"),
        ("keys", "key"),
        ("keys create --role admin", "key create"),
        ("keys revoke key-1", "key revoke"),
        ("version", "--version"),
        ("version --json", "--version"),
        ("rollout start line line:2 --guards errors", "rollout start --criteria"),
        ("rollout start --json --guards=errors", "rollout start --criteria"),
    ],
)
def test_an_old_form_is_an_error_that_names_the_new_one(run: Run, old: str, new: str) -> None:
    """Commands and flags of earlier releases end with status 2 and say what to write instead."""
    result = run(*old.split())
    assert result.returncode == exits.USAGE
    assert f"is now `roadworthy {new}`." in result.stderr
    assert result.stdout == ""


def test_a_new_form_is_no_old_one(run: Run) -> None:
    """The help of each noun is no old form."""
    for noun in ("version", "model", "endpoint", "key", "webhook", "rollout"):
        assert "list" in run(noun, "--help").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(environment: dict[str, str], run_installed: Run, shell: str) -> None:
    """The shell that runs the command gets a completion script, and its request is answered with our verbs."""
    command = [shell, "-c", f"{COMMAND} --show-completion; exit $?"]  # its name is what the command finds above itself
    told = subprocess.run(command, executable="/bin/bash", env=environment, capture_output=True, text=True, check=True)
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command"}[shell] in told.stdout
    answer = run_installed(_ROADWORTHY_COMPLETE="complete_bash", COMP_WORDS="roadworthy dep", COMP_CWORD="1")
    assert answer.stdout.split() == ["deploy"]


def test_stop_without_anything_running(run: Run) -> None:
    """Stopping nothing is not an error."""
    result = run("stop")
    assert (result.returncode, result.stdout) == (0, "nothing was running\n")


@pytest.mark.parametrize("verb", ["inspect", "verify", "serve"])
def test_other_files_are_refused_as_packages(run: Run, tmp_path: Path, verb: str) -> None:
    """A missing file and another kind of file end with status 4 and the reason."""
    (tmp_path / "x.rw").write_bytes(b"PK no")
    for name in ("x.rw", "missing.rw"):
        result = run(verb, name)
        assert result.returncode == exits.REFUSED
        assert "code: not-a-package" in result.stderr


def test_serving_without_keys_is_for_loopback(run: Run) -> None:
    """--no-auth on an address that other machines reach is refused first."""
    result = run("serve", "x.rw", "--no-auth", "--host", "192.0.2.1")
    assert result.returncode == exits.USAGE
    assert "code: auth-needed" in result.stderr


def test_a_gateway_needs_a_key(run: Run) -> None:
    """A gateway with a control plane but without its own key is refused; the admin's key would permit too much."""
    result = run("gateway", "--control-url", "http://127.0.0.1:1")
    assert result.returncode == exits.USAGE
    assert "code: gateway-key-missing" in result.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound("x"), 3),
        (errors.Conflict("x"), 4),
        (errors.ProofFailed("x"), 4),
        (errors.Unavailable("x"), 5),
        (errors.ClientError("x", code="timed-out"), 5),
        (errors.ClientError("x"), 1),
        (errors.Forbidden("x"), 6),
        (errors.InvalidInput("x"), 2),
        (errors.SettingsError("x"), 2),
        (errors.PackError("x"), 1),
        (errors.RoadworthyError("x"), 1),
    ],
)
def test_exit_statuses(error: RoadworthyError, status: int) -> None:
    """Each class of error has its documented exit status."""
    assert exits.exit_status(error) == status
