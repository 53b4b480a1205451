"""up → push → deploy → predict → roll back → logs → status → stop, all by the installed command, in a separate home folder.

One journey on the same running planes, in steps.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import roadworthy as rw
from tests.machine import FREE_PORTS, Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually


@pytest.fixture
def data() -> pd.DataFrame:
    """Real rows."""
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).data
    return frame


@pytest.fixture
def machine(tmp_path: Path, data: pd.DataFrame) -> Iterator[Machine]:
    """Two packed versions of a model; stops what still runs at the end."""
    machine = Machine(tmp_path, cold=True)
    target = load_breast_cancer().target
    for strength in (1.0, 0.01):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength)).fit(data, target)
        machine.models.append(model)
        machine.packages.append(rw.pack(model, name="cells", inputs=data, out=machine.folder / "dist", compile=False))
    yield machine
    machine.run("stop")


def up_tells_the_admin_key_once_and_keeps_it_private(machine: Machine) -> None:
    """The first start prints addresses and key; the key is in context.json for this user only, and in no log."""
    told = machine.tell("up", "-d", *FREE_PORTS)
    context = machine.context()
    assert told["admin_key"] == context["key"]
    assert (told["gateway"], told["control"]) == (context["gateway_url"], context["control_url"])
    assert stat.S_IMODE(machine.home.stat().st_mode) == 0o700
    for name in ("context.json", "gateway.key"):
        assert stat.S_IMODE((machine.home / name).stat().st_mode) == 0o600
    assert context["key"] not in machine.log()
    assert (machine.home / "gateway.key").read_text() not in machine.log()
    lines = [" ".join(process.cmdline()) for process in machine.family()]
    assert not any("rw_" in line for line in lines)
    for url in (told["metrics"], told["api"], f"{told['control']}/readyz", f"{told['gateway']}/readyz"):
        assert httpx.get(url, timeout=DEADLINE_S, verify=NO_TLS).status_code == 200


def a_second_up_is_refused(machine: Machine) -> None:
    """A home folder has only one running Roadworthy."""
    result = machine.run("up", *FREE_PORTS)
    assert result.returncode == 4
    assert "code: already-running" in result.stderr
    detached = machine.run("up", "-d", *FREE_PORTS)
    assert (detached.returncode, detached.stderr) == (4, result.stderr)


def push_needs_the_digest_of_code(machine: Machine) -> None:
    """A pickle is refused with the digest to allow, then registered as version 1; pushing it again changes nothing."""
    first, second = machine.packages
    refused = machine.run("push", str(first.path))
    assert refused.returncode == 4
    assert "code: code-not-allowed" in refused.stderr
    assert f"--allow-code {first.digest}" in refused.stderr
    for _ in range(2):
        pushed = machine.tell("push", str(first.path), "--allow-code", first.digest)
        assert (pushed["name"], pushed["version"], pushed["digest"]) == ("cells", 1, first.digest)
    text = machine.run("push", str(second.path), "--allow-code", second.digest).stdout
    assert text.startswith("cells:2\n")
    assert [version["version"] for version in machine.tell("version", "list")] == [1, 2]
    assert machine.tell("model", "list")[0]["latest"] == 2


def ask(machine: Machine, rows: pd.DataFrame) -> rw.Prediction:
    """A prediction from Python, found and allowed by the context."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"]) as client:
        return client.predict("cells", rows)


def serves(machine: Machine, number: int, rows: pd.DataFrame) -> None:
    """The answers come from that version, and name it."""

    def answered() -> rw.Prediction | None:
        answer = ask(machine, rows)
        return answer if answer.version == f"cells:{number}" else None

    answer = eventually(answered, f"cells:{number} answers")
    assert answer.digest == machine.packages[number - 1].digest
    right = machine.models[number - 1].predict_proba(rows)
    np.testing.assert_allclose([row["probabilities"] for row in answer.predictions], right, rtol=1e-5)


def deploy_predict_and_roll_back(machine: Machine, data: pd.DataFrame) -> None:
    """Each command returns once every worker serves the change, and not earlier."""
    rows = data.head(20)

    def at_once() -> set[str]:
        return {ask(machine, rows).version for _ in range(8)}

    assert machine.run("deploy", "cells:1", "--endpoint", "cells").stdout.startswith("cells serves cells:1 (after ")
    assert at_once() == {"cells:1"}
    serves(machine, 1, rows)
    document = machine.tell("deploy", "cells:2", "--endpoint", "cells")
    assert at_once() == {"cells:2"}
    assert (document["state"], document["version"], document["previous"]) == ("serving", "cells:2", "cells:1")
    serves(machine, 2, rows)
    assert machine.tell("rollback", "cells")["version"] == "cells:1"
    assert at_once() == {"cells:1"}
    serves(machine, 1, rows)
    assert machine.tell("endpoint", "list")[0]["previous"] == "cells:2"


WRONG = (
    (["deploy", "cells:9", "--endpoint", "cells"], 3, "unknown-version"),
    (["deploy", "cells", "--endpoint", "cells"], 2, "invalid-reference"),
    (["rollback", "nothing"], 3, "unknown-endpoint"),
    (["logs", "nothing"], 3, "unknown-endpoint"),
    (["key", "revoke", "key-nothing0"], 3, "unknown-key"),
    (["push", "missing.rw"], 1, "file-problem"),
)


def what_cannot_be_is_said(machine: Machine) -> None:
    """Unknown names and references end with their exit status and one clear block."""
    for words, status, code in WRONG:
        result = machine.run(*words)
        assert result.returncode == status, result.stderr
        assert f"  code: {code}\n" in result.stderr


def logs_show_what_was_asked_and_answered(machine: Machine, data: pd.DataFrame) -> None:
    """A prediction's record is found by its id, with version, rows and both bodies."""
    answer = ask(machine, data.head(2))

    def recorded() -> Any:
        return machine.tell("logs", "cells", "--id", answer.id)["items"]

    (item,) = eventually(recorded, "the record arrives")
    assert (item["version"], item["digest"], item["rows"], item["code"]) == ("cells:1", answer.digest, 2, "ok")
    assert "mean radius" in json.dumps(item["inputs"])
    page = machine.run("logs", "cells", "--last", "3").stdout.splitlines()
    assert page[0].startswith("TIME")
    assert len(page) == 4
    assert answer.id in page[-1]


def keys_and_status(machine: Machine, data: pd.DataFrame) -> None:
    """A key for one endpoint works there until it is revoked; status shows everything."""
    made = machine.tell("key", "create", "--role", "predictor", "--endpoint", "cells")
    url = machine.context()["gateway_url"]

    def status_with_key() -> int:
        try:
            with rw.Client(url, key=made["key"]) as client:
                client.predict("cells", data.head(1))
        except rw.Unauthenticated:
            return 401
        return 200

    eventually(lambda: status_with_key() == 200, "the key reaches the gateway")
    assert made["key"] not in machine.run("key", "list").stdout
    machine.tell("key", "revoke", made["id"])
    eventually(lambda: status_with_key() == 401, "the revocation reaches the gateway")
    status = machine.tell("status")
    assert [gateway["id"] for gateway in status["gateways"]] == ["local/local"]
    assert status["endpoints"][0]["version"] == "cells:1"
    assert "cells:1" in machine.run("status").stdout


def load_fetches_the_same_bytes(machine: Machine, data: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """rw.load of a version loads the registered model in this process, and caches it in the home folder."""
    monkeypatch.setenv("ROADWORTHY_HOME", str(machine.home))
    digest = machine.packages[1].digest
    with pytest.raises(rw.PackageRefused):
        rw.load("cells:2")
    with rw.load("cells:2", allow_code=digest) as model:
        assert model.digest == digest
        right = machine.models[1].predict(data.head(5))
        assert list(model.predict(data.head(5))["label"]) == list(right)
    assert (machine.home / "cache" / digest.removeprefix("sha256:")).is_dir()
    with pytest.raises(rw.NotFound):
        rw.load("cells:9")


def stop_leaves_nothing_and_up_goes_on_where_it_was(machine: Machine, data: pd.DataFrame) -> None:
    """After stop no process remains; the next start prints no key and answers with the same version."""
    family = machine.family()
    assert len(family) == 6  # with a runner for each of the two versions, which carry code
    key = machine.context()["key"]
    assert machine.run("stop").stdout == "stopped\n"
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    assert machine.run("status").returncode == 5
    machine.cold = False
    told = machine.tell("up", "-d", *FREE_PORTS)
    assert "admin_key" not in told
    assert machine.context()["key"] == key
    serves(machine, 1, data.head(3))


def undeploy(machine: Machine, data: pd.DataFrame) -> None:
    """The endpoint is gone, its versions stay."""
    machine.tell("undeploy", "cells")

    def gone() -> bool:
        try:
            ask(machine, data.head(1))
        except rw.NotFound:
            return True
        return False

    eventually(gone, "the gateway follows")
    assert len(machine.tell("version", "list")) == 2


@pytest.mark.timeout(12 * DEADLINE_S)
def test_from_up_to_undeploy(machine: Machine, data: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps, each from the end of the previous one."""
    up_tells_the_admin_key_once_and_keeps_it_private(machine)
    a_second_up_is_refused(machine)
    push_needs_the_digest_of_code(machine)
    deploy_predict_and_roll_back(machine, data)
    what_cannot_be_is_said(machine)
    logs_show_what_was_asked_and_answered(machine, data)
    keys_and_status(machine, data)
    load_fetches_the_same_bytes(machine, data, monkeypatch)
    stop_leaves_nothing_and_up_goes_on_where_it_was(machine, data)
    undeploy(machine, data)
