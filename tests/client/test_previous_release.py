"""The client of the previous release, in its own interpreter, against today's control plane."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.control_plane import ControlProcess
from tests.waiting import DEADLINE_S

JOURNEY = """
import json, sys
from roadworthy.client import Client
from roadworthy.foundation.errors import Conflict, NotFound
url, key, package = sys.argv[1:]
told = {}
with Client(control_url=url, key=key) as client:
    told["pushed"] = client.push(package)["version"]
    told["models"] = [model["name"] for model in client.models()]
    told["versions"] = [version["serving"] for version in client.versions("line")]
    told["state"] = client.deploy("line:1", "line", policy={"timeout_ms": 500}, if_generation=0)["state"]
    told["timeout"] = client.endpoint("line")["policy"]["timeout_ms"]
    told["endpoints"] = [each["pending"]["version"] for each in client.endpoints()]
    told["role"] = client.create_key("predictor", ["line"])["role"]
    told["keys"] = len(client.keys())
    told["webhooks"] = client.webhooks.list()
    told["open"] = client.rollouts.in_progress()
    told["abort"] = client.rollouts.abort("line")
    try:
        client.rollouts.start("line", "line:1", {"strategy": "canary"})
    except Conflict as error:
        told["start"] = [problem["code"] for problem in error.facts["problems"]]
    try:
        client.feedback("nothing", {"prediction_id": "x"})
    except NotFound as error:
        told["feedback"] = error.code
    told["logs"] = client.logs("line")
    told["events"] = client.events()["items"]
    told["gateways"] = client.status()["gateways"]
print(json.dumps(told))
"""


def test_it_goes_on_unchanged(older: Path, control: ControlProcess, make_package: Callable[..., Path]) -> None:
    """Every resource is read and written as before."""
    command = [older, "-c", JOURNEY, control.url, control.admin_key, str(make_package())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=8 * DEADLINE_S, check=False, cwd=control.folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "pushed": 1,
        "models": ["line"],
        "versions": [[]],
        "state": "loading",
        "timeout": 500,
        "endpoints": ["line:1"],
        "role": "predictor",
        "keys": 3,
        "webhooks": [],
        "open": [],
        "abort": {"endpoint": "line", "done": False, "refused": "nothing is in progress"},
        "start": ["no-stable", "no-baseline", "deploy-under-way"],
        "feedback": "unknown-endpoint",
        "logs": {"items": [], "next": None, "lost": 0, "unreadable": {"files": 0, "predictions": 0}},
        "events": [],
        "gateways": [],
    }
