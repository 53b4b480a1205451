"""What a plan opens, and what it keeps closed, whatever `sys.path` says; which variables a confined process gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from roadworthy.foundation.child import EXIT_REFUSED
from roadworthy.foundation.confine import launcher, seccomp, system
from roadworthy.foundation.confine import plan as plans
from roadworthy.foundation.confine.environment import filtered
from roadworthy.foundation.confine.plan import Bounds, confined, make_plan


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What is readable is found out once a process."""
    plans._readable.cache_clear()
    yield
    plans._readable.cache_clear()


def opened(folder: Path, *private: Path) -> tuple[set[str], set[str]]:
    """What is listed and what is read."""
    plan = make_plan(package=folder / "p", write=folder / "w", place="x", bounds=Bounds(private=private))
    return set(plan["list"]), set(plan["read"])


def test_the_interpreter_and_its_modules_are_open(tmp_path: Path) -> None:
    """All existing entries of `sys.path`, and the package."""
    _, read = opened(tmp_path)
    assert {str(Path(path).resolve()) for path in sys.path if Path(path).is_absolute()} <= read
    assert str(tmp_path / "p") in read


def test_a_home_folder_on_the_path_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules and packages in it are opened, and their names are listed; keys and hidden folders are not."""
    home = tmp_path / "user"
    for path in ("own.py", "notes.txt", ".roadworthy/context.json", "package/__init__.py", "data/a.py"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(home)])
    listed, read = opened(tmp_path, home / ".roadworthy")
    assert str(home) in listed - read
    assert {path for path in read if path.startswith(str(home))} == {str(home / "own.py"), str(home / "package")}


def test_a_private_folder_in_a_system_folder_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders next to a private one are opened."""
    for name in ("lib", "share/docs", "share/us/keys"):
        (tmp_path / "usr" / name).mkdir(parents=True)
    monkeypatch.setattr(plans, "_SYSTEM", (str(tmp_path / "usr"),))
    _, read = opened(tmp_path, tmp_path / "usr" / "share" / "us")
    found = {path.removeprefix(str(tmp_path)) for path in read if path.startswith(str(tmp_path / "usr"))}
    assert found == {"/usr/lib", "/usr/share/docs"}


def test_what_an_editable_install_points_to_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Setuptools uses a finder with a mapping where other installers put a folder on the path."""
    finder = ModuleType("__editable___thing_finder")
    finder.MAPPING = {"thing": str(tmp_path / "src" / "thing")}  # type: ignore[attr-defined]  # a module made here
    monkeypatch.setitem(sys.modules, finder.__name__, finder)
    assert str(tmp_path / "src" / "thing") in opened(tmp_path)[1]


def test_the_command_line_holds_the_plan_or_says_where_it_is() -> None:
    """The launcher is run by its path, without site-packages."""
    assert confined(["a", "b"])[1:3] == ["-I", "-S"]
    assert confined(["a", "b"])[4:] == [launcher.FROM_STDIN, "a", "b"]
    assert confined(["a"], {"place": "x"})[4:] == ['{"place": "x"}', "a"]
    assert launcher._EXIT_REFUSED == EXIT_REFUSED


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "ROADWORTHY_KEY", "HF_TOKEN", "TF_VAR_password", "DATABASE_URL"])
def test_no_secret_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables whose names suggest a secret."""
    monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    told = filtered({"HOME": "/own"})
    assert name not in told
    assert (told["OMP_NUM_THREADS"], told["HOME"]) == ("2", "/own")


@pytest.mark.parametrize("reach", [seccomp.NOTHING, seccomp.PORTS, seccomp.ANYWHERE])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_jump_of_the_filter_ends_in_the_program(machine: str, reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For both architectures, including the one this machine does not have; every path ends in a return."""
    for module in (system, seccomp):
        monkeypatch.setattr(module, "MACHINE", machine)
    steps = seccomp._program(reach)
    for position, (code, if_true, if_false, _) in enumerate(steps):
        if code in (seccomp._IF_EQUAL, seccomp._IF_AT_LEAST, seccomp._IF_ANY_BIT):
            assert position + 1 + max(if_true, if_false) < len(steps)
    assert steps[-1] == (seccomp._RETURN, 0, 0, seccomp._ALLOW)
    assert len({number for number in (system.number(name) for name in seccomp._REFUSED.split()) if number >= 0}) > 40
