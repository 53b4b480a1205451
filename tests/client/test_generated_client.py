"""A client that openapi-python-client generates from the API's description makes the whole journey: docs/api.md promises it.

The generator has an environment of its own, since it needs another Typer than the command line.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.control.fleet import Fleet
from tests.control_plane import ControlProcess
from tests.foreign import Foreign, foreign
from tests.waiting import eventually

EXAMPLE = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition("```py\n")[2].partition("```")[0]
"""That of the page, which deploys a version that does not exist here."""
JOURNEY = """
import json, sys, time
from io import BytesIO
from pathlib import Path
folder, url, key, package, example = sys.argv[1:]
sys.path.insert(0, folder)
from roadworthy_api import AuthenticatedClient
from roadworthy_api.api.endpoints import deploy, get_endpoint, list_endpoints, undeploy
from roadworthy_api.api.packages import delete_version, download_package, get_version, list_models, list_versions, push_package
from roadworthy_api.api.rollouts import command_rollout, get_rollout, list_rollouts, start_rollout
from roadworthy_api.api.system import create_key, get_status, list_audit_entries, list_events, list_keys, revoke_key
from roadworthy_api.models import CommandRolloutCommand, Deployment, NewKey, NewKeyRole, NewRollout, NewRolloutPlan, Problem
from roadworthy_api.types import File

def until(ask, true):
    while not true(found := ask()):
        time.sleep(0.05)
    return found

content = Path(package).read_bytes()
with AuthenticatedClient(url, key, raise_on_unexpected_status=True) as client:
    told = {"pushed": push_package.sync(client=client, body=File(BytesIO(content))).version}
    told["models"] = [each.name for each in list_models.sync(client=client).items]
    told["versions"] = [each.version for each in list_versions.sync("line", client=client).items]
    told["same"] = download_package.sync("line", 1, client=client).payload.read() == content
    deploy.sync("line", client=client, body=Deployment("line:1"))
    until(lambda: get_endpoint.sync("line", client=client), lambda found: found.state == "serving")
    plan = NewRolloutPlan.from_dict({"strategy": "canary", "steps": [50, 100], "hold": 600, "criteria": ["errors"]})
    started = start_rollout.sync("line", client=client, body=NewRollout("line:2", plan), idempotency_key="a")
    again = start_rollout.sync("line", client=client, body=NewRollout("line:2", plan), idempotency_key="a")
    told["once"] = started.id == again.id
    command_rollout.sync("line", started.id, CommandRolloutCommand.ABORT, client=client)
    ended = until(lambda: get_rollout.sync("line", started.id, client=client), lambda found: found.phase == "finished")
    told["rollouts"] = [each.id == ended.id for each in list_rollouts.sync("line", client=client).items]
    made = create_key.sync(client=client, body=NewKey(NewKeyRole.PREDICTOR, endpoints=["line"]))
    told["keys"] = [each.id for each in list_keys.sync(client=client).items].count(made.id)
    revoke_key.sync_detailed(made.id, client=client)
    try:
        exec(example, {"key": key})
    except SystemExit as refusal:
        told["example"] = str(refusal)
    told["deleted"] = delete_version.sync_detailed("line", 3, client=client).status_code
    refused = get_version.sync("line", 3, client=client)
    told["refused"] = isinstance(refused, Problem) and refused.code
    told["verbs"] = [each.verb for each in list_audit_entries.sync(client=client, last=3).items]
    told["events"] = len(list_events.sync(client=client).items) > 0
    told["gateways"] = len(get_status.sync(client=client).gateways)
    undeploy.sync_detailed("line", client=client)
    told["endpoints"] = list_endpoints.sync(client=client).items
print(json.dumps(told))
"""


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """The control plane has three versions of `line`."""
    return three_lines


@pytest.fixture(scope="session")
def generator() -> Foreign:
    """The environment with the generator, and with what its clients need."""
    return foreign("openapi-python-client==0.29.1")


def test_a_generated_client_makes_the_whole_journey(
    generator: Foreign, control: ControlProcess, make_package: Callable[..., Path], tmp_path: Path
) -> None:
    """Every reply is of the type that the description names."""
    description, config, folder = tmp_path / "openapi.json", tmp_path / "config.yaml", tmp_path / "client"
    description.write_bytes(httpx.get(f"{control.url}/openapi.json").content)
    config.write_text("post_hooks: []\n")  # it would format the files
    command = [generator.python, "-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    paths = ["--path", description, "--config", config, "--output-path", folder / "roadworthy_api"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with control.client(control.gateway_key) as link, ThreadPoolExecutor(1) as pool:
        fleet = Fleet(link)
        fleet.follow()
        told = pool.submit(
            generator.run,
            JOURNEY,
            folder,
            control.url,
            control.admin_key,
            make_package(factor=2.0),
            EXAMPLE.replace("http://localhost:8081", control.url),
        )
        eventually(lambda: fleet.follow() and told.done(), "the journey is over")
    assert told.result() == {
        "pushed": 1, "models": ["line"], "versions": [1, 2, 3], "same": True, "once": True, "rollouts": [True], "keys": 1,
        "deleted": 204, "refused": "unknown-version", "example": "no such version: flights:3",
        "verbs": ["delete", "key-revoke", "key-create"], "events": True,
        "gateways": 1, "endpoints": [],
    }  # fmt: skip
