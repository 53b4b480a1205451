"""`examples/plugin`, installed as a distribution outside ours: listed, conformant, packed, pushed, served and asked."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.plugins.installed import DISTRIBUTION, EXAMPLE, Environment
from tests.waiting import DEADLINE_S, NO_TLS

PACK = """
import sys
import numpy as np
import roadworthy as rw
from roadworthy_example import Linear

rows = np.random.default_rng(1).normal(size=(60, 2))
for name in ("inline", "isolated"):
    rw.pack(Linear((1.0, -2.0), 0.5), name=name, inputs=rows, out=sys.argv[1])
"""
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
    assert {states[name] for name in ("linear", "json-lines", "sqlite-blobs", "scikit-learn")} == {"loaded"}
    source = "import sys; from roadworthy.cli.main import run; run(['plugin', 'list']); print('found', *sys.modules)"
    listed = environment.execute("-c", source, plugins=())
    assert listed.stdout.count("not-named") == 3
    assert "roadworthy_example" not in listed.stdout.rpartition("found")[2].split()


def test_the_example_passes_the_conformance_suites(environment: Environment) -> None:
    """As its author runs them."""
    done = environment.execute(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(environment.folder / "source" / "tests")
    )
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
    """The gateway fetched both from there, and the folder has neither."""
    with closing(sqlite3.connect(environment.folder / "blobs.db")) as store:
        names = [name for (name,) in store.execute("SELECT name FROM blobs WHERE name LIKE 'packages/%'")]
    assert len(names) == 2
    assert not (environment.folder / "home" / "control" / "blobs" / "packages").exists()


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
