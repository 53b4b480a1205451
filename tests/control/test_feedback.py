"""Feedback over the real API: joined with record files, counted for the rollout that assigned each prediction, with any valid
key."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.contract.telemetry import RecordFile
from roadworthy.control.resources.feedback import trim
from roadworthy.control.resources.telemetry import audit_trail
from roadworthy.control.wiring import build_context
from roadworthy.rollout import rollouts
from roadworthy.rollout.decide import machine
from roadworthy.rollout.evidence import feedback
from roadworthy.rollout.evidence.feedback import Fact
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.rollouts import Rollout
from tests.control.fleet import LINE, ROLLOUTS, Fleet, begin, current, follow_until, three_versions
from tests.control.test_records import parquet, record
from tests.control_plane import ControlProcess
from tests.defaults import control_document

FEEDBACK = f"{LINE}/feedback"
PLAN = {"strategy": "canary", "steps": [50, 100], "hold": 600, "criteria": ["feedback", "custom.refund"]}
AB = {"strategy": "ab", "share": 50, "criteria": ["errors"], "metrics": {"converted": None, "revenue": {"high": 500}}}
_AT_MS = 1_700_000_000_000


class Served:
    """Predictions that a gateway recorded for the running rollout, after the fleet had taken its split."""

    def __init__(self, fleet: Fleet, admin: httpx.Client, digests: list[str]) -> None:
        self._fleet = fleet
        self._admin = admin
        self._digests = digests
        self._numbers = itertools.count(1)

    def made(self, variants: str, **changes: Any) -> list[str]:
        """Record one prediction for each letter, c for the canary, s for the stable; return their ids, in order."""
        rollout = current(self._admin)
        shared = {"generation": rollout["generation"], "rollout": rollout["id"], **changes}
        records = []
        for letter in variants:
            at_ms = _AT_MS + next(self._numbers)
            own = {"digest": self._digests[letter == "c"], "id": f"{at_ms:012x}{0:020x}", "at_us": at_ms * 1_000}
            records.append(record(1, **{**own, **shared}))
        name = f"line-{next(self._numbers)}.parquet"
        gateway = self._fleet.gateway
        assert gateway.client.put(f"/internal/v1/records/gw-1/{name}", content=parquet(records)).status_code == 204
        file = RecordFile(f"records/gw-1/{name}", "line", len(records), 1, records[0].at_us, records[-1].at_us)
        gateway.report(record_files=(file,), workers=self._fleet.workers())
        return [each.id for each in records]


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """What the control plane starts with."""
    return three_lines


@pytest.fixture
def fleet(control: ControlProcess, gateway: Any) -> Fleet:
    """The data plane."""
    return Fleet(gateway.client)


@pytest.fixture
def served(admin: httpx.Client, fleet: Fleet, make_package: Callable[..., Path]) -> Served:
    """Three versions exist and the first one serves."""
    return Served(fleet, admin, three_versions(admin, fleet, make_package))


@pytest.fixture
def predictor(admin: httpx.Client, control: ControlProcess) -> Iterator[httpx.Client]:
    """A caller of the endpoint."""
    key = admin.post("/api/v1/keys", json={"role": "predictor", "endpoints": ["line"]}).json()["key"]
    with control.client(key) as client:
        yield client


def roll_out(admin: httpx.Client, fleet: Fleet, plan: dict[str, Any] | None = None) -> dict[str, Any]:
    """Start a rollout, and follow until its first step."""
    begin(admin, plan=plan or PLAN)
    return dict(follow_until(fleet, admin, lambda rollout: rollout["share"] == 50))


def give(client: httpx.Client, *items: dict[str, Any]) -> list[str]:
    """Give feedback; return the result of each item."""
    reply = client.post(FEEDBACK, json={"items": items})
    assert reply.status_code == 200, reply.text
    assert sum(reply.json()["counts"].values()) == len(items)
    return [each["result"] for each in reply.json()["items"]]


def finding(admin: httpx.Client, signal: str) -> dict[str, Any]:
    """A criterion's numbers."""
    (found,) = [each for each in current(admin)["verdict"]["findings"] if each["signal"] == signal]
    return dict(found)


def test_a_canary_that_callers_call_wrong_goes_back(
    admin: httpx.Client, fleet: Fleet, served: Served, predictor: httpx.Client
) -> None:
    """Repeated feedback changes no count; feedback after the end is taken and changes no verdict."""
    roll_out(admin, fleet)
    ids = served.made("cs" * 20)
    wrong = [{"prediction_id": each, "correct": number % 2 == 1} for number, each in enumerate(ids)]
    assert set(give(predictor, *wrong[:-2])) == {"taken"}
    assert set(give(predictor, *wrong[:-2])) == {"duplicate"}
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["code"]) == ("rolled-back", "worse")
    assert ended["text"].startswith("feedback: canary 19 of 19 (1), stable 0 of 19 (0)")
    assert give(predictor, *wrong[-2:]) == ["taken", "taken"]
    assert current(admin)["text"] == ended["text"]


def test_a_bad_event_of_ones_own_rolls_back(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """By the criterion custom.NAME."""
    roll_out(admin, fleet)
    give(admin, *({"prediction_id": each, "events": ["refund"]} for each in served.made("c" * 20)))
    ended = follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    assert (ended["outcome"], ended["text"].partition(":")[0]) == ("rolled-back", "custom.refund")


def test_g10_feedback_on_a_damaged_record_file_is_told(
    admin: httpx.Client, fleet: Fleet, served: Served, control: ControlProcess
) -> None:
    """The item says that its record may be lost; items in intact files are taken, and an unknown id alone is no loss."""
    roll_out(admin, fleet)
    (good,), (lost,) = served.made("c"), served.made("c")
    number = max(int(path.stem.removeprefix("line-")) for path in control.folder.rglob("line-*.parquet"))
    asked = [{"prediction_id": each, "correct": True} for each in (good, lost, f"{_AT_MS:012x}{9:020x}")]
    next(control.folder.rglob(f"line-{number}.parquet")).write_bytes(b"junk")
    first, second, _ = admin.post(FEEDBACK, json={"items": asked}).json()["items"]
    assert first == {"prediction_id": good, "result": "taken"}
    assert (second["result"], "damaged or missing" in second["problem"]) == ("unknown", True)
    (elsewhere,) = admin.post(FEEDBACK, json={"items": [{"prediction_id": "0" * 32, "correct": True}]}).json()["items"]
    assert "problem" not in elsewhere


def test_what_becomes_of_each_item(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """Only predictions that the rollout assigned and its version answered are evidence; the reply has each item's result."""
    roll_out(admin, fleet)
    before = served.made("c", rollout="") + served.made("c", rollout="rollout-of-a-lost-database")
    failed = served.made("c", code="model-failed", status=500) + served.made("s", source="static")
    (one,) = served.made("c")
    asked = [
        *({"prediction_id": each, "correct": False} for each in (*before, *failed, f"{_AT_MS:012x}{9:020x}")),
        {"prediction_id": one, "values": {"revenue": 3}},
        {"prediction_id": one, "correct": True, "events": ["late"]},
        {"prediction_id": f"{one}:3", "correct": False},
    ]
    reply = admin.post(FEEDBACK, json={"items": asked}).json()
    assert [each["result"] for each in reply["items"]] == [
        *("not-in-rollout", "not-in-rollout", "no-evidence", "no-evidence", "unknown", "not-asked", "taken", "taken"),
    ]
    assert [each.get("ignored") for each in reply["items"][5:]] == [["revenue"], ["late"], None]
    assert reply["counts"] == {
        **dict.fromkeys(("duplicate", "out-of-bounds", "closed", "invalid"), 0),
        "taken": 2,
        "no-evidence": 2,
        "unknown": 1,
        "not-in-rollout": 2,
        "not-asked": 1,
    }
    follow_until(fleet, admin, lambda rollout: rollout["verdict"] and finding(admin, "feedback")["samples"] == 1)
    assert finding(admin, "feedback")["bad"] == 1


def test_unknown_becomes_known_when_its_record_arrives(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """Feedback may arrive before the record; sent again later, it is taken."""
    roll_out(admin, fleet)
    at_ms = _AT_MS + 500
    later = {"id": f"{at_ms:012x}{0:020x}", "at_us": at_ms * 1_000}
    item = {"prediction_id": later["id"], "correct": True}
    assert give(admin, item) == ["unknown"]
    served.made("s", **later)
    assert give(admin, item) == ["taken"]


def test_an_ab_test_reports_each_metric(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """A value outside the plan's bounds refuses the whole item; the report has counts, means and intervals, also after the
    end."""
    roll_out(admin, fleet, AB)
    ids = served.made("cs" * 200)
    refused = {"prediction_id": ids[0], "values": {"converted": 1, "revenue": 501}}
    reply = admin.post(FEEDBACK, json={"items": [refused]}).json()["items"][0]
    assert reply["result"] == "out-of-bounds"
    assert reply["problem"] == "revenue is 501; the plan allows 0 to 500"
    values = [
        {"prediction_id": each, "values": {"converted": (n % 2 == 0 and 1) or 0, "revenue": 250 + n % 2}}
        for n, each in enumerate(ids)
    ]
    assert set(give(admin, *values[:-2])) == {"taken"}
    converted, revenue = current(admin)["metrics"]
    assert (converted["metric"], converted["stable"]["values"], converted["canary"]["values"]) == (
        "converted",
        199,
        199,
    )
    assert (converted["stable"]["mean"], converted["canary"]["mean"]) == (0.0, 1.0)
    assert 0 < converted["low"] < 1 <= converted["high"]
    assert converted["text"] == "the new version's is higher"
    assert (revenue["stable"]["mean"], revenue["canary"]["mean"]) == (251.0, 250.0)
    assert revenue["text"] == "no difference is shown yet"
    admin.post(f"{ROLLOUTS}/current:abort")
    follow_until(fleet, admin, lambda rollout: rollout["phase"] == "finished")
    give(admin, *values)
    assert current(admin)["metrics"][0]["canary"]["values"] == 200


def test_values_that_are_worse_raise_the_alarm_of_business(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """Without values there is no evidence; with worse values the alarm holds the rollout."""
    roll_out(admin, fleet, {**AB, "watch": ["business"]})
    follow_until(fleet, admin, lambda rollout: rollout["watched"][0]["outcome"] == "no-evidence")
    ids = served.made("cs" * 200)
    give(admin, *({"prediction_id": each, "values": {"converted": n % 2}} for n, each in enumerate(ids)))
    held = follow_until(fleet, admin, lambda rollout: rollout["watched"][0]["outcome"] == "alarm")
    assert held["watched"][0]["samples"] == 200
    assert held["share"] == 50


def test_users_of_a_sticky_test_count_once(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """The gateway's record has the user, so feedback need not name it; the first value counts."""
    roll_out(admin, fleet, {**AB, "sticky": {"header": "X-User"}, "criteria": ["feedback"]})
    first, second = served.made("cc", unit=77)
    (other,) = served.made("s", unit=78)
    assert give(admin, *({"prediction_id": each, "values": {"converted": 1}} for each in (first, second, other))) == [
        *("taken", "duplicate", "taken"),
    ]
    assert set(give(admin, *({"prediction_id": each, "correct": False} for each in (first, second, other)))) == {"taken"}
    follow_until(fleet, admin, lambda rollout: rollout["verdict"] and finding(admin, "feedback")["samples"] == 2)
    found = finding(admin, "feedback")
    assert (found["samples"], found["bad"], found["stable_samples"], found["stable_bad"]) == (2, 1, 1, 1)
    assert current(admin)["metrics"][0]["canary"]["values"] == 1


def test_a_restart_in_between_loses_nothing_and_counts_nothing_twice(
    admin: httpx.Client, fleet: Fleet, served: Served, control: ControlProcess
) -> None:
    """kill -9 between two halves, of which the second repeats the first."""
    roll_out(admin, fleet)
    items = [{"prediction_id": each, "correct": True} for each in served.made("cs" * 50)]
    give(admin, *items[:60])
    control.kill()
    control.start()
    with control.client(control.admin_key) as again, control.client(control.gateway_key) as link:
        assert give(again, *items) == ["duplicate"] * 60 + ["taken"] * 40
        fleet.gateway.client = link
        follow_until(fleet, again, lambda rollout: finding(again, "feedback")["samples"] == 50)
        assert finding(again, "feedback")["stable_samples"] == 50


def test_only_who_may_call_the_endpoint_gives_feedback(
    admin: httpx.Client, served: Served, predictor: httpx.Client, control: ControlProcess
) -> None:
    """A predictor key opens this one path of its own endpoints and no other; a gateway key opens none."""
    item = {"items": [{"prediction_id": "0" * 32, "correct": True}]}
    other = predictor.post("/api/v1/endpoints/other/feedback", json=item)
    assert (other.status_code, other.json()["code"]) == (403, "endpoint-not-allowed")
    for method, path in (("GET", LINE), ("PUT", LINE), ("GET", f"{LINE}/predictions"), ("POST", f"{FEEDBACK}/x")):
        assert predictor.request(method, path).status_code == 403, path
    with control.client(control.gateway_key) as link:
        assert link.post(FEEDBACK, json=item).status_code == 403
    free = admin.post("/api/v1/keys", json={"role": "predictor"}).json()["key"]
    with control.client(free) as anybody:
        assert give(anybody, *item["items"]) == ["unknown"]
        missing = anybody.post("/api/v1/endpoints/nothing/feedback", json=item)
    assert (missing.status_code, missing.json()["code"]) == (404, "unknown-endpoint")
    assert "feedback" not in {entry["verb"] for entry in admin.get("/api/v1/audit").json()["items"]}


ID = "0" * 32
JSON = {"Content-Type": "application/json"}


INVALID: tuple[tuple[Any, str], ...] = (
    ({"correct": True}, "prediction_id: is missing"),
    ({"prediction_id": ID}, "empty: give at least one of correct, events and values"),
    ({"prediction_id": "0123", "correct": True}, "prediction_id: expected 32 hexadecimal digits"),
    ({"prediction_id": f"{ID}:x", "correct": True}, "prediction_id: expected 32 hexadecimal digits"),
    ({"prediction_id": 3, "correct": True}, "prediction_id: expected text, got 3"),
    ({"prediction_id": "\ud800", "correct": True}, "prediction_id: "),
    ({"prediction_id": "0" * 100_000, "correct": True}, "prediction_id: "),
    ({"prediction_id": ID, "correct": "maybe"}, "correct: expected true or false, got text ('maybe')"),
    ({"prediction_id": ID, "correct": 1}, "correct: expected true or false, got 1"),
    ({"prediction_id": ID, "events": "refund"}, "events: expected a list, got text ('refund')"),
    ({"prediction_id": ID, "events": ["no name"]}, "events[0]: expected a name"),
    ({"prediction_id": ID, "events": ["refund"] * 33}, "events: must have from 0 to 32 items, got 33"),
    ({"prediction_id": ID, "values": {"revenue": "12"}}, "values.revenue: expected a number, got text ('12')"),
    ({"prediction_id": ID, "values": {"revenue": True}}, "values.revenue: expected a number, got true"),
    ({"prediction_id": ID, "values": {"re/venue": 1}}, "values: expected a name"),
    ({"prediction_id": ID, "values": {"\ud800": 1}}, "values: "),
    ({"prediction_id": ID, "values": {"revenue": 10**400}}, "values.revenue: expected a number, got one that is too large"),
    ({"prediction_id": ID, "correct": True, "user": "ann"}, "user: unknown key"),
    (None, "expected an object with some of prediction_id"),
    ([ID], "expected an object with some of prediction_id"),
)


def test_g17_a_bad_item_stops_none_of_the_others(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """Each item has its own result, in order; the problem of a bad item is short, whatever it contained."""
    roll_out(admin, fleet)
    good = [{"prediction_id": each, "correct": True} for each in served.made("cs" * 10)]
    bad = [item for item, _ in INVALID]
    everything = json.dumps({"items": [good[0], *bad, *good[1:]]})
    reply = admin.post(FEEDBACK, content=everything, headers=JSON)
    assert reply.status_code == 200, reply.text
    told = reply.json()["items"]
    assert [each["result"] for each in told] == ["taken", *["invalid"] * len(bad), *["taken"] * 19]
    for (item, problem), outcome in zip(INVALID, told[1:], strict=False):
        assert outcome["problem"].startswith(problem), item
        assert len(str(outcome)) < 1_000
    assert told[3]["prediction_id"] == "0123"
    assert reply.json()["counts"] | {"taken": 20, "invalid": len(bad)} == reply.json()["counts"]
    only = admin.post(FEEDBACK, content=json.dumps({"items": bad}), headers=JSON)
    assert only.json()["counts"]["invalid"] == len(bad)
    for number in ("NaN", "Infinity", "1e999", "9" * 400):
        text = f'{{"items": [{{"prediction_id": "{ID}", "values": {{"revenue": {number}}}}}]}}'
        reply = admin.post(FEEDBACK, content=text, headers=JSON)
        assert reply.json()["items"][0]["result"] == "invalid", (number, reply.text)


def test_what_holds_no_items_is_refused(admin: httpx.Client, served: Served) -> None:
    """In one problem reply that names the wrong place."""
    one = {"prediction_id": ID, "correct": True}
    for body in ({}, {"items": []}, {"items": [one] * 1_001}, {"items": one}, {"items": [one], "more": 1}, []):
        reply = admin.post(FEEDBACK, json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid-request"), body
        assert reply.json()["fields"]


def test_a_rollout_that_nothing_could_be_fed_to_is_refused(admin: httpx.Client, fleet: Fleet, served: Served) -> None:
    """Feedback is joined with records: if the endpoint keeps no records, the start is refused and names what needs them."""
    admin.put(LINE, json={"version": "line:1", "policy": {"record": False}})
    fleet.follow()
    refused = admin.post(ROLLOUTS, json={"version": "line:2", "plan": {**AB, "criteria": ["feedback"]}})
    assert (refused.status_code, refused.json()["code"]) == (409, "rollout-refused")
    (problem,) = refused.json()["problems"]
    assert problem["code"] == "records-off"
    assert problem["text"].startswith("feedback, converted, revenue arrive as feedback")
    assert admin.post(ROLLOUTS, json={"version": "line:2", "plan": {**PLAN, "criteria": ["errors"]}}).status_code == 201


def test_rows_beyond_the_limit_go_and_that_is_audited(tmp_path: Path) -> None:
    """By the controllers' loop; once."""
    context = build_context(control_document(tmp_path, feedback_max_rows=1))
    state, plan = machine.begin("r1", 1), check_plan({"strategy": "canary", "criteria": ["feedback"]})
    facts = [Fact("feedback", f"p{n}", f"p{n}", 1, "canary", 0, bad=True) for n in range(2)]
    with context.database.begin() as connection:
        rollouts.create(connection, Rollout("r1", "line", "m:1", "d1", "m:2", "d2", plan, state, 1, "me"))
        feedback.take(connection, "r1", facts, "key-a", 5)
    assert [trim(context), trim(context)] == [1, 0]
    (entry,) = audit_trail(context, 5, None).items
    assert (entry.verb, entry.subject, entry.detail) == ("feedback-trimmed", "r1", {"rows": 2})
    context.database.close()
