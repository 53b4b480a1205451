"""`examples/plugin`, installed as a distribution outside ours: listed, conformant, packed, pushed, served and asked."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

import roadworthy as rw
from roadworthy.contract.telemetry import WorkerReport
from tests.control_plane import FakeGateway
from tests.plugins.installed import DISTRIBUTION, EXAMPLE, Environment
from tests.traffic import Traffic
from tests.waiting import DEADLINE_S, NO_TLS, dawdle, eventually

PACK = """
import sys
import numpy as np
import roadworthy as rw
from roadworthy_example import Linear

rows = np.random.default_rng(1).normal(size=(60, 2))
for name in ("inline", "isolated"):
    rw.pack(Linear((1.0, -2.0), 0.5), name=name, inputs=rows, out=sys.argv[1])
rw.pack(lambda given: given.sum(axis=1), name="coded", inputs=rows, out=sys.argv[1])
for number, slope in enumerate((1.0, 100.0, 1.001, -1.0)):  # the second leaves the range below; the last has another sign
    rw.pack(Linear((slope, 0.0)), name="ranged", inputs=rows, out=f"{sys.argv[1]}/ranged{number}")
"""
PLAN = {
    "strategy": "canary",
    "steps": [50, 100],
    "hold": 1,
    "evidence": 20,
    "criteria": {"out_of_range": {"low": -10, "high": 10}},
}
LINES = "application/x-ndjson"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the example, and its source with its tests."""
    made = Environment(tmp_path_factory.mktemp("plugins"))
    source = made.folder / "source"
    shutil.copytree(EXAMPLE, source)
    made.install(source)
    return made


@pytest.fixture(scope="module")
def packages(environment: Environment) -> dict[str, Path]:
    """Two models of the plug-in's framework, packed in a script of the user's own."""
    done = environment.execute("-c", PACK, str(environment.folder))
    assert done.returncode == 0, done.stderr
    return {path.name.partition("-")[0]: path for path in environment.folder.glob("*.rw")}


@pytest.fixture(scope="module")
def gateway(environment: Environment, packages: dict[str, Path]) -> Iterator[httpx.Client]:
    """A client of a gateway that serves "inline" in its worker and "isolated" in a runner, both from the plug-in's store."""
    environment.more["ROADWORTHY_CONTROL_BLOB_URL"] = f"sqlite-blobs:{environment.folder / 'blobs.db'}"
    ports = ("--port", "0", "--control-port", "0", "--metrics-port", "0", "--workers", "1")
    told(environment, "up", "-d", *ports)
    try:
        for name, where in (("inline", "auto"), ("isolated", "process")):
            told(environment, "push", str(packages[name]))
            told(environment, "deploy", f"{name}:1", "--endpoint", name, "--set", f"placement.where={where}")
        context = json.loads((environment.folder / "home" / "context.json").read_text())
        key = {"authorization": f"Bearer {context['key']}"}
        with httpx.Client(base_url=context["gateway_url"], headers=key, timeout=DEADLINE_S, verify=NO_TLS) as client:
            yield client
    finally:
        environment.command("stop")
        environment.more.clear()


def told(environment: Environment, *arguments: str) -> Any:
    """What a command that must succeed prints with --json."""
    done = environment.command(*arguments, "--json")
    log = environment.folder / "home" / "logs" / "roadworthy.log"
    assert done.returncode == 0, done.stderr + done.stdout + (log.read_text()[-5_000:] if log.exists() else "")
    return json.loads(done.stdout)


def test_what_the_settings_name_is_loaded(environment: Environment) -> None:
    """Named it is loaded; not named it is shown and not imported."""
    states = {each["name"]: each["state"] for each in told(environment, "plugin", "list")}
    ours = ("linear", "json-lines", "sqlite-blobs", "out_of_range", "sign", "limits", "frugal")
    assert {states[name] for name in (*ours, "scikit-learn", "slow", "fallback", "cache", "breaker", "inline")} == {"loaded"}
    source = "import sys; from roadworthy.cli.main import run; run(['plugin', 'list']); print('found', *sys.modules)"
    listed = environment.execute("-c", source, plugins=())
    assert listed.stdout.count("not-named") == 7
    assert "roadworthy_example" not in listed.stdout.rpartition("found")[2].split()


def test_the_example_passes_the_conformance_suites(environment: Environment) -> None:
    """As its author runs them."""
    done = environment.execute("-m", "pytest", "-q", "-p", "no:cacheprovider", str(environment.folder / "source" / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_package_of_its_framework_is_data(environment: Environment, packages: dict[str, Path]) -> None:
    """The framework declared that nothing executes, so no one has to allow code; without the plug-in the package is shown."""
    package = packages["inline"]
    assert told(environment, "inspect", str(package))["carries_code"] is False
    assert environment.command("verify", "--prove", str(package)).returncode == 0
    assert environment.command("inspect", str(package), plugins=()).returncode == 0
    refused = environment.command("verify", "--prove", str(package), "--json", plugins=())
    assert json.loads(refused.stdout or refused.stderr)["code"] == "unknown-framework"


@pytest.mark.parametrize("endpoint", ["inline", "isolated"])
def test_it_is_served_and_asked_in_its_own_format(gateway: httpx.Client, endpoint: str) -> None:
    """Rows and answers as JSON Lines; in a worker and in a runner; JSON still works."""
    url = f"/v1/models/{endpoint}:predict"
    rows = [[1.0, 2.0], [3.0, 4.0]]
    body = "".join(f"{json.dumps(row)}\n" for row in rows)
    answer = gateway.post(url, content=body, headers={"content-type": LINES, "accept": LINES})
    assert (answer.status_code, answer.headers["content-type"]) == (200, LINES), answer.text
    assert [json.loads(line) for line in answer.text.splitlines()] == [-2.5, -4.5]
    assert gateway.post(url, json={"instances": rows}).json()["predictions"] == [-2.5, -4.5]


def test_a_long_body_is_read_by_a_reading_process(gateway: httpx.Client) -> None:
    """The reading process has the codec too."""
    rows = 9_000
    answer = gateway.post("/v1/models/inline:predict", content=b"[1.0, 2.0]\n" * rows, headers={"content-type": LINES})
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == [-2.5] * rows


def test_packages_lie_in_its_store(gateway: httpx.Client, environment: Environment) -> None:
    """The gateway fetched them from there, and the folder has none."""
    with closing(sqlite3.connect(environment.folder / "blobs.db")) as store:
        names = [name for (name,) in store.execute("SELECT name FROM blobs WHERE name LIKE 'packages/%'")]
    assert len(names) == 2
    assert not (environment.folder / "home" / "control" / "blobs" / "packages").exists()


@pytest.mark.parametrize("model", ["inline", "isolated"])
def test_its_layer_keeps_answers_within_limits(gateway: httpx.Client, environment: Environment, model: str) -> None:
    """Set in the endpoint's policy, shown by `describe`, and changed with it; the header counts the values that were moved."""
    endpoint, url = f"limited-{model}", f"/v1/models/limited-{model}:predict"
    parameters = ("--set", "layers.limits.output=prediction", "--set", "layers.limits.low=-3")
    told(environment, "deploy", f"{model}:1", "--endpoint", endpoint, *parameters)
    rows = {"instances": [[1.0, 2.0], [3.0, 4.0]]}  # -2.5 and -4.5
    answer = gateway.post(url, json=rows)
    assert (answer.json()["predictions"], answer.headers["x-limited"]) == ([-2.5, -3.0], "1")
    assert told(environment, "describe", endpoint)["policy"]["layers"] == {
        "limits": {"output": "prediction", "low": -3.0, "high": None}
    }
    assert ["layers.limits.low", "-3", "-"] in map(str.split, environment.command("describe", endpoint).stdout.splitlines())
    static = 'fallback=[{"kind": "static", "value": 0}]'
    told(environment, "deploy", f"{model}:1", "--endpoint", endpoint, "--set", static, "--set", "layers.limits.low=-10")
    answer = gateway.post(url, json=rows)
    assert (answer.json()["predictions"], answer.headers.get("x-limited")) == ([-2.5, -4.5], None)
    told(environment, "deploy", f"{model}:1", "--endpoint", endpoint, "--set", "layers=null")
    assert told(environment, "describe", endpoint)["policy"]["layers"] == {}


@pytest.mark.parametrize("model", ["inline", "coded"])
def test_its_runner_executes_versions(
    gateway: httpx.Client, environment: Environment, packages: dict[str, Path], model: str
) -> None:
    """In one confined process, which the agent keeps, however many the policy asks for. It isolates, so it gets code too."""
    if model == "coded":
        digest = told(environment, "inspect", str(packages[model]))["digest"]
        told(environment, "push", str(packages[model]), "--allow-code", digest)
    endpoint = f"frugal-{model}"
    parameters = ("--set", "placement.where=frugal", "--set", "placement.copies=3")
    told(environment, "deploy", f"{model}:1", "--endpoint", endpoint, *parameters)
    digest = told(environment, "describe", endpoint)["digest"]

    def placement() -> Any:
        (each,) = told(environment, "status")["gateways"]
        (state,) = [state for worker in each["workers"] for state in worker["versions"] if state["digest"] == digest]
        return state["placement"].startswith("frugal") and state["processes"] and (state["placement"], state["processes"])

    assert eventually(placement, "the version runs there") == ("frugal: asked for; copies 1, threads 1", 1)
    rows = [[float(number), 1.0] for number in range(200)]
    answer = gateway.post(f"/v1/models/{endpoint}:predict", json={"instances": rows})
    assert answer.json()["predictions"] == [row[0] - 1.5 if model == "inline" else sum(row) for row in rows], answer.text
    refused = environment.command("deploy", f"{model}:1", "--endpoint", endpoint, "--set", "placement.where=hasty", "--json")
    document = json.loads(refused.stdout or refused.stderr)
    assert (document["code"], "auto, inline, process or frugal" in document["error"]) == ("invalid-policy", True)
    told(environment, "undeploy", endpoint)


@pytest.mark.parametrize(
    ("parameters", "code", "text"),
    [
        (("limits.output=prediction",), "invalid-policy", "layers.limits: expected low, high, or both"),
        (("limits.output=y", "limits.low=0"), "invalid-policy", "layers.limits: no output 'y'"),
        (("limits.output=prediction", "limits.low=zero"), "invalid-policy", "layers.limits.low: expected a number"),
        (("bounds.low=0",), "unknown-layer", "bounds"),
    ],
)
def test_the_control_plane_refuses_a_layer(
    gateway: httpx.Client, environment: Environment, parameters: tuple[str, ...], code: str, text: str
) -> None:
    """With wrong parameters, by the layer's own rules, or when no plug-in here has it."""
    words = [word for each in parameters for word in ("--set", f"layers.{each}")]
    refused = environment.command("deploy", "inline:1", "--endpoint", "inline", *words, "--json")
    assert refused.returncode != 0
    document = json.loads(refused.stdout or refused.stderr)
    assert document["code"] == code
    assert text in document["error"]


class Elsewhere(Traffic):
    """Another gateway, which reports what its worker has loaded again and again, so that it stays live."""

    def __init__(self, internal: httpx.Client) -> None:
        super().__init__()
        self._gateway = FakeGateway(internal, "other")
        self._worker = WorkerReport(0, 1, "w", None, 0, 0)
        self._reports = 0

    def call(self) -> None:
        """Report."""
        assert self._gateway.report(workers=(self._worker,)).status_code == 200
        self._reports += 1
        dawdle(0.2)

    def loads(self, **plugins: tuple[str, ...]) -> None:
        """Report exactly these plug-ins from now on; returns when the control plane knows."""
        self._worker, before = WorkerReport(0, 1, "w", None, 0, 0, **cast("Any", plugins)), self._reports
        eventually(lambda: self._reports >= before + 2, "it has reported them")


@pytest.mark.parametrize(
    ("noun", "name", "assignments"),
    [
        ("layer", "limits", ("layers.limits.output=prediction", "layers.limits.low=0")),
        ("runner", "frugal", ("placement.where=frugal",)),
    ],
)
def test_a_gateway_without_the_plug_in_is_named(
    gateway: httpx.Client, environment: Environment, noun: str, name: str, assignments: tuple[str, ...]
) -> None:
    """A deployment that adds the layer or the runner is refused while a live gateway has not loaded it, and the status names the
    gateway when it comes later."""
    endpoint, code = f"named-{noun}", f"{noun}-missing"
    assigned = [word for each in assignments for word in ("--set", each)]
    words = ("deploy", "inline:1", "--endpoint", endpoint, *assigned, "--json")
    context = json.loads((environment.folder / "home" / "context.json").read_text())
    key = told(environment, "key", "create", "--role", "gateway")["key"]
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=context["control_url"], headers=headers, verify=NO_TLS) as internal, Elsewhere(internal) as other:
        other.loads()
        refused = environment.command(*words)
        document = json.loads(refused.stdout or refused.stderr)
        (lacking,) = document[f"{noun}s"][name]
        assert (document["code"], lacking.endswith("other")) == (code, True)
        other.loads(layers=("limits",), runners=("frugal",))
        assert environment.command(*words, "--no-wait").returncode == 0
        other.loads()
        alerts = [each for each in told(environment, "status")["alerts"] if each["code"] == code]
        assert [(each["gateway"], f"{name} of endpoint {endpoint}" in each["text"]) for each in alerts] == [(lacking, True)]
        assert code in environment.command("status").stdout
        other.loads(layers=("limits",), runners=("frugal",))
    told(environment, "undeploy", endpoint)


def test_a_content_type_that_no_codec_reads_is_refused(gateway: httpx.Client) -> None:
    """The hint names the plug-in's media type among the others."""
    answer = gateway.post("/v1/models/inline:predict", content=b"x", headers={"content-type": "image/png"})
    assert answer.status_code == 415
    assert LINES in answer.json()["hint"]


def test_a_distribution_that_is_not_installed_stops_the_start(environment: Environment) -> None:
    """Before anything is started, and by name."""
    refused = environment.command("up", "-d", "--json", "--home", "other", plugins=("no-such-plugin",))
    assert refused.returncode != 0
    assert "no-such-plugin" in refused.stdout + refused.stderr
    assert DISTRIBUTION not in refused.stdout


class Asking(Traffic):
    """Asks the endpoint "ranged" without pause, until it is left."""

    def __init__(self, gateway: httpx.Client) -> None:
        super().__init__()
        self._gateway = gateway

    def call(self) -> None:
        """Ask once."""
        answer = self._gateway.post("/v1/models/ranged:predict", json={"instances": [[1.0, 1.0]]})
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def client(gateway: httpx.Client, environment: Environment) -> Iterator[rw.Client]:
    """A client of the control plane. The endpoint "ranged" serves the first of four versions of one signature."""
    context = json.loads((environment.folder / "home" / "context.json").read_text())
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as made:
        for number in range(4):
            (package,) = (environment.folder / f"ranged{number}").glob("*.rw")
            made.push(package)
        made.wait(made.deploy("ranged:1", "ranged"))
        yield made


def rolled_out(client: rw.Client, gateway: httpx.Client, version: str, plan: Any) -> Any:
    """The document of a rollout of "ranged" to that version under traffic, once it is over or an alarm holds it."""
    with Asking(gateway):
        begun = client.rollouts.start("ranged", version, plan)

        def stands() -> Any:
            seen = client.rollouts.get("ranged", begun.id)
            return seen if seen.outcome is not None or seen.code == "alarm" else None

        return eventually(stands, f"the rollout of {version} is over or held")


def test_a_rollout_is_rolled_back_by_its_signal(client: rw.Client, gateway: httpx.Client) -> None:
    """All answers of the canary leave the range, which no criterion of ours sees; the evidence is the usual E-process."""
    ended = rolled_out(client, gateway, "ranged:2", PLAN)
    (finding,) = ended.verdict.findings
    assert (ended.outcome, ended.code, finding.signal) == ("rolled-back", "worse", "out_of_range"), ended
    assert (finding.bad, finding.stable_bad) == (finding.samples, 0)
    assert finding.log_e >= finding.log_e_bound


def test_an_equal_version_is_promoted_by_its_signal(client: rw.Client, gateway: httpx.Client) -> None:
    """With as many samples as the steps ask for, none of them bad."""
    ended = rolled_out(client, gateway, "ranged:3", PLAN)
    (finding,) = ended.verdict.findings
    assert (ended.outcome, finding.outcome, finding.bad) == ("promoted", "PASS", 0), ended
    assert finding.samples >= 40


def test_a_rollout_is_held_by_its_bins(client: rw.Client, gateway: httpx.Client) -> None:
    """The answers of the canary have another sign: that is an alarm, and never a rollback."""
    held = rolled_out(client, gateway, "ranged:4", {**PLAN, "evidence": 0, "criteria": ["errors"], "watch": ["sign"]})
    assert (held.phase, held.code) == ("stepping", "alarm"), held
    assert "most of it positive" in held.text or "most of it negative" in held.text
    client.rollouts.abort("ranged")
