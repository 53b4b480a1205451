"""An upgrade as the operations page describes it, with real processes of two releases. First the control plane: it goes on
with a rollout in progress and serves the older gateway. Then the gateway: it goes on with what the older one left on its disk.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import DEADLINE_S, NO_TLS, eventually

ENDPOINT = "/api/v1/endpoints/line"
ROLLOUT = f"{ENDPOINT}/rollouts/current"
ROW = [1.0, 2.0, 3.0]
FACTORS = {"line:1": 2.0, "line:2": 3.0}
"""The versions, which answer differently."""


@dataclass
class Site:
    """A control plane and a gateway, each with its own home folder, run by the command of either release."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    key: str = ""
    predicted: Counter[str] = field(default_factory=Counter)
    """Answered predictions by version."""

    def start(self, part: str, python: str | Path, *arguments: str) -> None:
        """Start "control" or "gateway" with this interpreter, and wait until it tells its address."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        told = self.folder / f"{part}.json"
        with told.open("wb") as output:
            self.processes[part] = subprocess.Popen(
                [python, "-m", "roadworthy.cli.main", part, *arguments, "--json"],
                cwd=self.folder,
                env={**clean, "ROADWORTHY_HOME": str(self.folder / part)},
                stdin=subprocess.DEVNULL,
                stdout=output,
            )

        def address() -> Any:
            assert self.processes[part].poll() is None, f"the {part} has ended"
            return told.read_bytes().rstrip().endswith(b"}") and json.loads(told.read_bytes())

        document = eventually(address, f"the {part} is up")
        self.urls[part] = document[part]
        self.key = document.get("admin_key") or self.key

    def stop(self, part: str) -> None:
        """SIGTERM, and wait for the end."""
        process = self.processes.pop(part)
        process.terminate()
        assert process.wait(DEADLINE_S) == 0

    def serve(self, python: str | Path) -> None:
        """Start a gateway with one worker, at the control plane of this site."""
        ports = ("--port", "0", "--metrics-port", "0", "--workers", "1", "--name", "one")
        key = ("--key-file", str(self.folder / "gateway.key"), "--control-url", self.urls["control"])
        self.start("gateway", python, *ports, *key)

    def ask(self, method: str, path: str, **content: Any) -> Any:
        """One call of the management API that must succeed; its document."""
        headers = {"Authorization": f"Bearer {self.key}"}
        url = self.urls["control"] + path
        reply = httpx.request(method, url, headers=headers, timeout=DEADLINE_S, verify=NO_TLS, **content)
        assert reply.is_success, reply.text
        return reply.json()

    def predict(self, user: str = "anyone") -> dict[str, Any]:
        """One answer, which is that of the version that it names."""
        headers = {"Authorization": f"Bearer {self.key}", "X-User": user}
        url = f"{self.urls['gateway']}/v1/models/line:predict"
        reply = httpx.post(url, json={"instances": [ROW]}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)
        assert reply.status_code == 200, reply.text
        version = reply.headers["Roadworthy-Version"]
        assert reply.json()["predictions"] == [[FACTORS[version] * value for value in ROW]]
        self.predicted[version] += 1
        return {"version": version, "id": reply.headers["Roadworthy-Prediction-Id"]}

    def served(self) -> bool:
        """Whether every worker answers by the endpoint's present state."""
        endpoint = self.ask("GET", ENDPOINT)
        return bool(endpoint["state"] == "serving" and endpoint["reached_revision"] >= endpoint["revision"])

    def under_load(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        """Predict until the rollout in progress is as wanted; its document."""

        def looked() -> Any:
            for number in range(10):
                self.predict(f"user-{number}")
            rollout = self.ask("GET", ROLLOUT)
            return condition(rollout) and rollout

        return dict(eventually(looked, what))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Ends what still runs."""
    made = Site(tmp_path)
    yield made
    for process in made.processes.values():
        process.terminate()
    for process in made.processes.values():
        process.wait(DEADLINE_S)


def everything_is_of_the_previous_release(site: Site, older: Path, make_package: Any) -> None:
    """Two versions are pushed, and the first one serves."""
    site.start("control", older, "--port", "0")
    key = site.ask("POST", "/api/v1/keys", json={"role": "gateway", "name": "edge"})["key"]
    (site.folder / "gateway.key").write_text(key)
    (site.folder / "gateway.key").chmod(0o600)
    site.serve(older)
    for name, factor in FACTORS.items():
        pushed = site.ask("POST", "/api/v1/packages", content=make_package(factor=factor).read_bytes())
        assert pushed["version"] == int(name[-1])
    site.ask("PUT", ENDPOINT, json={"version": "line:1"})
    eventually(site.served, "the first version serves")
    assert site.predict()["version"] == "line:1"


def a_rollout_begins(site: Site) -> None:
    """With guards, as plans were written then, up to a step that a person has to approve."""
    plan = {
        "strategy": "canary",
        "steps": [50, {"share": 100, "approve": True}],
        "hold": 0,
        "evidence": 20,
        "guards": {"errors": {"limit": 0.5}, "custom.refund": {"evidence": 0}},
    }
    site.ask("POST", f"{ENDPOINT}/rollouts", json={"version": "line:2", "plan": plan})
    site.under_load(lambda rollout: rollout["code"] == "waits-for-approval", "the first step has its evidence")


def todays_control_plane_goes_on_with_it(site: Site) -> None:
    """It opens the database, reads plan, state and evidence, counts on what the older gateway reports, and promotes."""
    before = site.ask("GET", ROLLOUT)
    site.stop("control")
    site.predict()
    site.start("control", sys.executable, "--port", site.urls["control"].rpartition(":")[2])
    rollout = site.ask("GET", ROLLOUT)
    assert (rollout["id"], rollout["step"], rollout["share"]) == (before["id"], before["step"], 50)
    assert [each["signal"] for each in rollout["plan"]["criteria"]] == ["errors", "custom.refund"]

    def samples(document: dict[str, Any]) -> int:
        return int(document["verdict"]["findings"][0]["samples"])

    assert samples(rollout) >= samples(before) >= 20
    site.under_load(lambda now: samples(now) > samples(before), "further requests count")
    site.ask("POST", f"{ROLLOUT}:approve")
    ended = site.under_load(lambda now: now["outcome"], "it is over")
    assert (ended["outcome"], ended["verdict"]["findings"][0]["bad"]) == ("promoted", 0), ended["text"]
    eventually(site.served, "the second version serves")
    assert site.predict()["version"] == "line:2"


def the_older_gateway_counts_for_criteria(site: Site) -> None:
    """Mirrored requests, which the first version answers otherwise, roll it back."""
    plan = {"strategy": "shadow", "share": 100, "hold": 0, "evidence": 20, "criteria": ["disagreement"]}
    site.ask("POST", f"{ENDPOINT}/rollouts", json={"version": "line:1", "plan": plan})
    ended = site.under_load(lambda now: now["outcome"], "it is over")
    assert (ended["outcome"], ended["code"]) == ("rolled-back", "worse")
    (finding,) = ended["verdict"]["findings"]
    assert finding["samples"] == finding["bad"] > 0


def its_records_answer_feedback(site: Site) -> None:
    """An A/B test by user: records arrive, feedback finds them, and both versions have values and counted answers."""
    plan = {
        "strategy": "ab",
        "share": 50,
        "sticky": {"header": "X-User"},
        "metrics": ["converted"],
        "watch": {"drift": "alert"},
        "criteria": ["errors"],
    }
    site.ask("POST", f"{ENDPOINT}/rollouts", json={"version": "line:1", "plan": plan})
    site.under_load(lambda now: now["share"] == 50, "both versions have users")
    eventually(lambda: site.ask("GET", ENDPOINT)["reached_revision"] >= site.ask("GET", ENDPOINT)["revision"], "by all")
    answers = [site.predict(f"user-{number}") for number in range(40)]
    items = [{"prediction_id": each["id"], "values": {"converted": 1}} for each in answers]

    def counted() -> bool:
        counts = site.ask("POST", f"{ENDPOINT}/feedback", json={"items": items})["counts"]
        return counts.get("unknown", 0) == 0 and bool(counts.get("duplicate"))

    eventually(counted, "every record has arrived")
    rollout = site.under_load(lambda now: now["watched"][0]["samples"], "answers are counted")
    (metric,) = rollout["metrics"]
    for name, version in (("stable", "line:2"), ("canary", "line:1")):
        assert metric[name]["variant"] == name
        assert metric[name]["values"] == sum(each["version"] == version for each in answers) > 0
    site.ask("POST", f"{ROLLOUT}:abort")
    site.under_load(lambda now: now["outcome"] == "aborted", "it is over")


def it_is_rolled_back(site: Site) -> None:
    """The older gateway takes today's snapshot."""
    assert site.ask("POST", f"{ENDPOINT}:rollback")["version"] == "line:1"
    eventually(site.served, "the first version serves again")
    assert site.predict()["version"] == "line:1"


def todays_gateway_goes_on_from_its_disk(site: Site) -> None:
    """Without a control plane, from the older one's snapshot and packages; and what the older one recorded and did not ship
    arrives later."""
    site.stop("control")
    for _ in range(20):
        assert site.predict()["version"] == "line:1"
    site.stop("gateway")
    left = [path.name for path in (site.folder / "gateway" / "gateway" / "records").rglob("*") if path.is_file()]
    assert left
    site.serve(sys.executable)
    for _ in range(20):
        assert eventually(site.predict, "it serves")["version"] == "line:1"
    site.start("control", sys.executable, "--port", site.urls["control"].rpartition(":")[2])

    def recorded() -> bool:
        items = site.ask("GET", f"{ENDPOINT}/predictions", params={"last": 40})["items"]
        return Counter(each["version"] for each in items) == {"line:1": 40}

    eventually(recorded, "all records have arrived")
    eventually(site.served, "the control plane knows the gateway")


def test_control_planes_and_gateways_of_two_releases(site: Site, older: Path, make_package: Any) -> None:
    """Upgrade control planes before gateways: at no point a prediction fails, and nothing that was counted is lost."""
    everything_is_of_the_previous_release(site, older, make_package)
    a_rollout_begins(site)
    todays_control_plane_goes_on_with_it(site)
    the_older_gateway_counts_for_criteria(site)
    its_records_answer_feedback(site)
    it_is_rolled_back(site)
    todays_gateway_goes_on_from_its_disk(site)
