"""The files decide what a package is. A manifest that contradicts them is refused at every opening, and none of its code runs.

Every archive here is written by hand with right hashes, as an attacker would, and holds a pickle that leaves a mark when it is
read.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import roadworthy as rw
from bench.redteam.archives import put_together, seal, take_apart
from bench.redteam.forged import LIES, Marking, forge, make_honest
from bench.redteam.packages import ROWS, graph
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import PackageInvalid, PackageRefused, RoadworthyError
from roadworthy.package.archive import open_package, unpack
from roadworthy.package.construct import construct
from roadworthy.package.package import Package
from roadworthy.package.prove import prove
from roadworthy.package.replay import Replay, replay_isolated
from roadworthy.package.rules import load_rule
from roadworthy.runtime.loading import package_folder, package_loader, rule_loader
from roadworthy.runtime.placement import facts_of
from tests.control_plane import ControlProcess
from tests.machine import run_command


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Packages by kind."""
    return make_honest(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that exists once a package's code ran."""
    return tmp_path / "RAN"


@pytest.fixture(params=LIES)
def forged(request: pytest.FixtureRequest, honest: dict[str, Package], tmp_path: Path, mark: Path) -> tuple[Path, str]:
    """A forged package, unpacked, and its digest."""
    kind, lie = LIES[request.param]
    folder = tmp_path / "forged"
    return folder, forge(honest[kind], lie, folder, mark)


def refused(do: Callable[[], Any], code: str = "manifest-invalid") -> RoadworthyError:
    """The error of a call that must be refused."""
    with pytest.raises((PackageInvalid, PackageRefused)) as caught:
        do()
    assert caught.value.code == code, caught.value.message
    assert caught.value.hint
    return caught.value


def test_g4_whoever_opens_a_lying_package_refuses_it(
    forged: tuple[Path, str], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File and folder, load, worker, rules, and placement if it depends on the serving runtime."""
    folder, digest = forged
    monkeypatch.setenv("ROADWORTHY_HOME", str(tmp_path / "home"))
    packed = put_together(folder, tmp_path / "forged.rw")
    for path in (folder, packed):
        refused(lambda path=path: open_package(path))  # type: ignore[misc]
        refused(lambda path=path: rw.load(path))  # type: ignore[misc]
        refused(lambda path=path: rw.load(path, allow_code=digest))  # type: ignore[misc]
    refused(lambda: unpack(packed, tmp_path / "unpacked"))
    shutil.copytree(folder, package_folder(tmp_path, digest))
    for allowed_by in (None, "someone"):
        entry = PackageEntry(digest, "forged", 1, 1, allowed_by)
        refused(lambda entry=entry: package_loader(tmp_path, 1)(entry))  # type: ignore[misc]
    refused(lambda: rule_loader(tmp_path, "half")(PackageEntry(digest, "forged", 1, 1, "someone")))
    with contextlib.suppress(PackageInvalid):  # otherwise the lie is about a part that does not serve
        assert facts_of(folder, digest).framework == "onnx"
    assert not mark.exists()


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("lie", ["no code, data", "preprocessing hidden", "a runtime added"])
def test_g4_the_process_that_proves_refuses_it_too(
    lie: str, allow: bool, honest: dict[str, Package], tmp_path: Path, mark: Path
) -> None:
    """However the package got there, even with its code allowed: the permission was for the true description."""
    kind, change = LIES[lie]
    forge(honest[kind], change, tmp_path / "forged", mark)
    refused(lambda: replay_isolated(tmp_path / "forged", Replay(every_runtime=False, allow_code=allow, bare=True)))
    assert not mark.exists()


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    """A control plane to push to."""
    process = ControlProcess(tmp_path_factory.mktemp("control") / "plane")
    yield process
    process.kill()


def test_g4_nothing_forged_is_registered(control: ControlProcess, forged: tuple[Path, str], tmp_path: Path, mark: Path) -> None:
    """Pushed over HTTP, with its code allowed and not."""
    folder, digest = forged
    packed = put_together(folder, tmp_path / "forged.rw").read_bytes()
    for allowed in ({}, {"allow_code": digest}):
        with control.client(control.admin_key) as admin:
            answer = admin.post("/api/v1/packages", content=packed, params=allowed)
            assert (answer.status_code, answer.json()["code"]) == (422, "manifest-invalid")
            assert admin.get("/api/v1/models").json()["items"] == []
    assert not mark.exists()


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["verify", "--prove"], ["serve"]])
def test_g4_no_command_believes_it(command: list[str], honest: dict[str, Package], tmp_path: Path, mark: Path) -> None:
    """Each command reports the contradiction, and what to do."""
    forge(honest["pickle"], LIES["no code, data"][1], tmp_path / "forged", mark)
    packed = put_together(tmp_path / "forged", tmp_path / "forged.rw")
    environment = {"ROADWORTHY_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    done = run_command([command[0], str(packed), *command[1:], "--json"], cwd=tmp_path, env=environment)
    assert done.returncode != 0
    assert "manifest-invalid" in done.stderr + done.stdout
    assert "the manifest describes the runtime native as no code" in done.stderr + done.stdout
    assert not mark.exists()


def test_g4_a_pickle_in_a_graphs_metadata_stays_text(tmp_path: Path, mark: Path) -> None:
    """Nothing reads it: the graph is data and runs without permission for code, and the pickle does not run."""
    told = graph()
    for holder in (told, told.graph, told.graph.node[0]):
        entry = holder.metadata_props.add()
        entry.key, entry.value = "model", pickle.dumps(Marking(mark), protocol=0).decode()
    told.doc_string = "cos\nsystem\n(S'true'\ntR."
    package = rw.pack(told, name="told", inputs=ROWS, out=tmp_path, examples=4)
    assert not package.carries_code
    constructed = construct(unpack(package.path, tmp_path / "unpacked"))
    assert prove(constructed).rows == 4
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("pickle", "runtimes/native/model.pkl"),
        ("behind", "code/code.pkl"),
        ("behind", "runtimes/native/model.onnx"),
        ("graph", "runtimes/native/model.onnx"),
    ],
)
def test_g4_leave_is_for_the_bytes_that_were_sealed(
    kind: str, file: str, honest: dict[str, Package], tmp_path: Path, mark: Path
) -> None:
    """A file that changes after opening is not covered by the allowed digest: it is refused unread."""
    package = unpack(honest[kind].path, tmp_path / "unpacked")
    (package.path / file).write_bytes(pickle.dumps(Marking(mark)))
    refused(lambda: construct(package, allow_code=[package.digest]), "package-damaged")
    (package.path / file).unlink()
    refused(lambda: construct(package, allow_code=[package.digest]), "package-damaged")
    assert not mark.exists()


def test_g4_leave_for_a_rule_is_for_its_bytes(honest: dict[str, Package], tmp_path: Path, mark: Path) -> None:
    """Likewise."""
    package = unpack(honest["ruled"].path, tmp_path / "unpacked")
    (package.path / "rules/half/code.pkl").write_bytes(pickle.dumps(Marking(mark)))
    refused(lambda: load_rule(package, "half", allow_code=[package.digest]), "package-damaged")
    assert not mark.exists()


def test_g4_a_package_under_the_name_of_another_is_not_loaded(honest: dict[str, Package], tmp_path: Path) -> None:
    """The digest comes from the bytes: an intact package in another's place is refused."""
    wanted = honest["pickle"].digest
    unpack(honest["graph"].path, package_folder(tmp_path, wanted))
    entry = PackageEntry(wanted, "pickle", 1, 1, "someone")
    refused(lambda: package_loader(tmp_path, 1)(entry), "package-damaged")
    refused(lambda: rule_loader(tmp_path, "half")(entry), "package-damaged")
    refused(lambda: facts_of(package_folder(tmp_path, wanted), wanted), "package-damaged")


def test_g4_a_framework_that_is_not_known_is_shown_and_never_constructed(honest: dict[str, Package], tmp_path: Path) -> None:
    """A package of a later release can be inspected; the kind of its files is unknown, so none of it runs."""
    manifest = take_apart(honest["graph"].path, tmp_path / "later")
    manifest["runtimes"][0]["framework"] = "keras"
    digest = f"sha256:{seal(tmp_path / 'later', manifest)}"
    package = open_package(tmp_path / "later")
    refused(lambda: construct(package), "unknown-framework")
    refused(lambda: construct(package, allow_code=[digest]), "unknown-framework")
    refused(lambda: facts_of(tmp_path / "later", digest), "unknown-framework")


def test_g4_the_message_names_what_contradicts_what(honest: dict[str, Package], tmp_path: Path) -> None:
    """The runtime, the manifest's statement, the kind of its files; no path of this machine."""
    manifest = take_apart(honest["pickle"].path, tmp_path / "forged")
    manifest["runtimes"][0].update(carries_code=False, trust="data")
    seal(tmp_path / "forged", manifest)
    error = refused(lambda: open_package(tmp_path / "forged"))
    assert "the manifest describes the runtime native as no code of trust 'data'" in error.message
    assert "its scikit-learn files are code of trust 'pickle'" in error.message
    assert str(tmp_path) not in json.dumps([error.message, error.hint])
