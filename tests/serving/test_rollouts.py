"""E17: rollouts on real workers: assignment, counts, and copies that reach no caller."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scipy.stats import binom

from roadworthy.contract.evidence import CONFIDENCE, DRAWN, MetricCount, PairCount, RolloutCounts, VariantCount
from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback, Policy
from roadworthy.contract.snapshot import FULL_SHARE, EndpointEntry, RolloutEntry, VariantEntry, WatchedOutput
from roadworthy.foundation.slab import SlabReader
from roadworthy.runtime.queue.run_times import WARM_UP_RUNS
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.serving.metrics import read_totals
from tests.conftest import eventually

SIGNALS = ("errors", "invalid_outputs", "slow", "disagreement")
UNLUCKY = [[13, 0, 0]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A gateway folder."""
    return tmp_path


def roll_out(plan: Any, weight: int, policy: Policy | None = None, generation: int = 1, **more: Any) -> None:
    """Put the plan's two packages into a rollout of the endpoint "e"; the first is the stable."""
    stable, canary = (package.digest for package in plan.packages[:2])
    split = tuple(VariantEntry(*side) for side in ((stable, FULL_SHARE - weight), (canary, weight)) if side[1])
    rollout = RolloutEntry("r", stable, canary, signals=SIGNALS, **more)
    signature = plan.models[stable]["signature"]
    plan.endpoints = [EndpointEntry("e", generation, split, signature, policy or Policy(), rollout)]


def planted(plan: Any, canary: str, stable: str = "sum") -> Any:
    """A plan with two packages."""
    plan.package(1, kind=stable)
    plan.package(2, kind=canary)
    return plan


def counted(folder: Path) -> RolloutCounts:
    """The counts of a worker."""
    return read_totals(SlabReader(folder / "run" / "slab")).evidence.counts("r")


def samples_of(folder: Path, signal_name: str) -> dict[tuple[int, str], tuple[int, int]]:
    """Samples and bad samples by generation and variant."""
    return {(c.generation, c.variant): (c.samples, c.bad) for c in counted(folder).variants if c.signal == signal_name}


def ask(worker: Any, rows: Any, times: int, **headers: str) -> Counter[tuple[str, int]]:
    """How often each version answered with each status."""
    replies = [worker.predict("e", rows, headers=headers) for _ in range(times)]
    return Counter((reply.headers["roadworthy-version"], reply.status_code) for reply in replies)


def test_e17_shares_and_counts_on_several_workers(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """Shares are within a 99.9 % interval of the weights; each request is a sample of the variant that answered it."""
    plan = planted(make_plan(), "sum")
    roll_out(plan, 2_000)
    asked, total = 700, Counter[str]()
    for number in range(3):
        folder = tmp_path / str(number)
        worker = start_worker(plan, folder=folder).wait_ready()
        seen = ask(worker, [[1, 2, 3]], asked)
        total.update({version: count for (version, _), count in seen.items()})
        errors = samples_of(folder, "errors")
        assert errors == {(1, "stable"): (seen["m:1", 200], 0), (1, "canary"): (seen["m:2", 200], 0)}
        assert samples_of(folder, DRAWN) == errors
    low, high = binom.interval(0.999, 3 * asked, 0.2)
    assert low <= total["m:2"] <= high


@pytest.mark.parametrize(("kind", "invalid"), [("poison", False), ("not-finite", True), ("wrong-count", True)])
def test_the_versions_own_outcome_counts_whatever_the_caller_gets(
    start_worker: Any, make_plan: Any, folder: Path, kind: str, invalid: bool
) -> None:
    """A fallback answers all callers; the canary's failures still count against it."""
    plan = planted(make_plan(), kind)
    roll_out(plan, 5_000, Policy(fallback=(Fallback("static", value={"total": 0.0}),)))
    worker = start_worker(plan, folder=folder).wait_ready()
    seen = ask(worker, UNLUCKY, 60)
    assert seen["m:1", 200] + seen["m:2", 200] == 60
    errors, outputs = samples_of(folder, "errors"), samples_of(folder, "invalid_outputs")
    canary = errors[1, "canary"]
    assert canary == (seen["m:2", 200], seen["m:2", 200])
    assert errors[1, "stable"] == (60 - canary[0], 0)
    assert outputs[1, "canary"] == (canary[0], canary[0] if invalid else 0)
    assert not counted(folder).excluded


def test_slow_is_run_time_after_warm_up(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """The first runs are no samples; after them, each longer run is bad."""
    plan = planted(make_plan(), "noting", stable="noting")
    roll_out(plan, FULL_SHARE, slow_us=1_000_000)
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, [[1, 1.1, 0]], 1)
    ask(worker, [[1, 0.0, 0]], WARM_UP_RUNS - 1)
    assert samples_of(folder, "slow") == {}
    ask(worker, [[1, 0.0, 0]], 10)
    ask(worker, [[1, 1.1, 0]], 2)
    assert samples_of(folder, "slow") == {(1, "canary"): (12, 2)}
    assert samples_of(folder, "errors") == {(1, "canary"): (WARM_UP_RUNS + 12, 0)}
    times = read_totals(SlabReader(folder / "run" / "slab")).run_times
    assert sum(times[plan.packages[1].digest]) == 12


def test_one_that_takes_all_the_time_is_slow(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """Its answers come after the deadline, and still count."""
    plan = planted(make_plan(), "gated", stable="gated")
    roll_out(plan, FULL_SHARE, Policy(timeout_ms=2_000), slow_us=1_000_000)
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, [[1, 0, 0]], WARM_UP_RUNS)
    assert ask(worker, [[1, 1, 0]], 1) == {("m:2", 504): 1}
    assert samples_of(folder, "slow") == {(1, "canary"): (1, 1)}
    worker.open_gate()


@pytest.mark.parametrize("by", ["header", "field"])
def test_e17_users_stay_and_count_once(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path, by: str) -> None:
    """A user assigned to the canary keeps it when its share grows; each user with errors is stored as one hash."""
    plan = planted(make_plan(), "poison", stable="poison")
    sticky = {"sticky_header": "X-User"} if by == "header" else {"sticky_field": "b"}
    roll_out(plan, 3_000, **sticky)
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()

    def version_of(user: int) -> str:
        more = {"headers": {"x-user": str(user)}} if by == "header" else {}
        reply = worker.predict("e", [[13, user, 0]], **more)
        assert reply.status_code == 500
        return str(reply.headers["roadworthy-version"])

    users = range(60)
    first = {user: version_of(user) for user in users}
    assert first == {user: version_of(user) for user in users}
    roll_out(plan, 7_000, generation=2, **sticky)
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().revision == 2, "the share has grown")
    later = {user: version_of(user) for user in users}
    assert {user for user in users if first[user] == "m:2"} < {user for user in users if later[user] == "m:2"}
    units = [unit for unit in counted(folder).units if unit.signal == "errors"]
    assert len(units) == len({unit.unit for unit in units}) == 60
    assert {unit.generation for unit in units} == {1}
    assert Counter(unit.variant for unit in units)["canary"] == sum(version == "m:2" for version in first.values())


def test_what_comes_late_keeps_its_generation(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path) -> None:
    """A request assigned before the share changed counts in the generation that assigned it."""
    plan = planted(make_plan(), "gated")
    roll_out(plan, FULL_SHARE)
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    asking = threading.Thread(target=worker.predict, args=("e", [[1, 1.0, 0]]))
    asking.start()
    eventually((folder / "ran").exists, "it runs")
    roll_out(plan, 5_000, generation=2)
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().revision == 2, "the share has changed")
    assert samples_of(folder, "errors") == {}
    worker.open_gate()
    asking.join()
    assert samples_of(folder, "errors") == {(1, "canary"): (1, 0)}


def test_a_killed_worker_loses_no_count(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """A request that was answered has been counted."""
    plan = planted(make_plan(), "poison")
    roll_out(plan, FULL_SHARE, sticky_header="X-User")
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, UNLUCKY, 5, **{"x-user": "someone"})
    worker.process.send_signal(signal.SIGKILL)
    worker.process.wait()
    assert samples_of(folder, "errors") == {(1, "canary"): (5, 5)}
    assert len(counted(folder).units) == 1


def test_what_is_no_evidence(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """Retried requests, and those that a breaker refused, are counted separately. The refused ones still count as assigned."""
    plan = planted(make_plan(), "poison")
    roll_out(plan, FULL_SHARE, Policy(breaker=BreakerPolicy(min_requests=5, window_s=600.0, open_s=3_600.0)))
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, UNLUCKY, 1, **{"x-envoy-attempt-count": "2"})
    ask(worker, UNLUCKY, 1, **{"x-envoy-attempt-count": "1"})
    eventually(lambda: worker.predict("e", UNLUCKY).json()["code"] == "circuit-open", "the breaker opens")
    excluded = {(each.reason, each.variant): each.count for each in counted(folder).excluded}
    assert excluded["retried", "canary"] == 1
    assert excluded["breaker", "canary"] == 1
    samples, bad = samples_of(folder, "errors")[1, "canary"]
    assert samples == bad >= 4
    assert samples_of(folder, DRAWN) == {(1, "canary"): (samples + 1, 0)}


def test_nothing_is_answered_from_the_cache(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """The caches of two versions are never equally full, so a rollout is judged without them."""
    plan = planted(make_plan(), "sum")
    roll_out(plan, 5_000, Policy(cache=CachePolicy(ttl_s=60.0)))
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, [[1, 2, 3]], 20)
    assert sum(samples for samples, _ in samples_of(folder, "errors").values()) == 20


def test_a_request_that_names_its_version_is_no_evidence(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """It was not assigned by the rollout."""
    plan = planted(make_plan(), "sum")
    roll_out(plan, 5_000)
    worker = start_worker(plan, folder=folder).wait_ready()
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in "abc"]
    assert worker.client.post("/v2/models/e/versions/2/infer", json={"inputs": inputs}).status_code == 200
    assert counted(folder) == RolloutCounts("r")


def test_records_tell_what_can_be_evidence(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path) -> None:
    """A record names the rollout that assigned the version, and the user's hash; not for a retry, nor for a request that named
    its version. So later feedback counts for exactly the requests that are counted here."""
    plan = planted(make_plan(), "sum", stable="poison")
    roll_out(plan, 5_000, sticky_header="X-User")
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    for user in range(30):
        worker.predict("e", UNLUCKY, headers={"x-user": str(user)})
    worker.predict("e", UNLUCKY, headers={"x-envoy-attempt-count": "2"})
    inputs = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in "abc"]
    worker.client.post("/v2/models/e/versions/2/infer", json={"inputs": inputs})
    eventually(lambda: len(agent.records) == 32, "the records arrive")
    drawn = [record for record in agent.records if record.rollout == "r"]
    assert [record.rollout for record in agent.records if record not in drawn] == ["", ""]
    failed = {f"{record.unit:016x}" for record in drawn if record.code != "ok"}
    assert failed == {unit.unit for unit in counted(folder).units}
    assert len({record.unit for record in drawn}) == len(drawn) == 30


def pairs(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Pairs, and those in which one version is bad, by signal."""
    return {each.signal: (each.pairs, each.canary_bad, each.stable_bad) for each in counted(folder).pairs}


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (("sum", "sum"), {"errors": (10, 0, 0), "invalid_outputs": (10, 0, 0), "disagreement": (10, 0, 0)}),
        (("sum", "off-by-one"), {"errors": (10, 0, 0), "invalid_outputs": (10, 0, 0), "disagreement": (10, 10, 0)}),
        (("sum", "poison"), {"errors": (10, 10, 0), "invalid_outputs": (10, 0, 0)}),
        (("poison", "sum"), {"errors": (10, 0, 10), "invalid_outputs": (10, 0, 0)}),
        (("poison", "not-finite"), {"errors": (10, 0, 0), "invalid_outputs": (10, 10, 0)}),
    ],
)
def test_copies_are_compared(
    start_worker: Any,
    make_plan: Any,
    planted_agent: Any,
    folder: Path,
    kinds: tuple[str, str],
    expected: dict[str, tuple[int, int, int]],
) -> None:
    """Callers get only the stable's answers; copies are in no record, no request count and no variant's samples."""
    stable, canary = kinds
    plan = planted(make_plan(), canary, stable=stable)
    roll_out(plan, 0, shadow=FULL_SHARE)
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    for number in range(1, 11):
        reply = worker.predict("e", UNLUCKY)
        assert reply.headers["roadworthy-version"] == "m:1"
        assert reply.status_code == (500 if stable == "poison" else 200)
        eventually(lambda n=number: pairs(folder).get("errors", (0,))[0] == n, "the copy is answered")
    eventually(lambda: pairs(folder) == expected, "they are compared")
    assert {each.variant for each in counted(folder).variants} == {"stable"}
    requests = read_totals(SlabReader(folder / "run" / "slab")).requests
    assert {(bound.version, count) for (bound, _), count in requests.items()} == {("m:1", 10)}
    eventually(lambda: len(agent.records) >= 10, "the records arrive")
    assert {record.version for record in agent.records} == {1}


TOTALS = (WatchedOutput("total", edges=(5.0, 10.0)),)


def bins(folder: Path) -> dict[str, dict[int, int]]:
    """Answers by variant and bin of the first watched output."""
    return {each.variant: {n: cell for n, cell in enumerate(each.cells) if cell} for each in counted(folder).bins}


def test_answers_are_counted_for_the_variant_that_gave_them(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """Before the caller has them. Failures, answers of fallbacks, and answers to retried requests do not count."""
    plan = planted(make_plan(), "poison")
    roll_out(plan, 5_000, Policy(fallback=(Fallback("static", value={"total": 0.0}),)), outputs=TOTALS)
    worker = start_worker(plan, folder=folder).wait_ready()
    seen = ask(worker, [[1, 2, 3]], 30)
    assert bins(folder) == {"stable": {1: seen["m:1", 200]}, "canary": {1: seen["m:2", 200]}}
    ask(worker, [[1, 2, 3]], 10, **{"x-envoy-attempt-count": "2"})
    unlucky = ask(worker, UNLUCKY, 20)
    assert bins(folder)["canary"] == {1: seen["m:2", 200]}
    assert bins(folder)["stable"] == {1: seen["m:1", 200], 2: unlucky["m:1", 200]}
    assert counted(folder).metrics == ()


def test_copies_are_counted_with_what_was_served(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """The same requests for both versions, and no others: large requests are not copied, and would be missing for one."""
    plan = planted(make_plan(), "off-by-one")
    roll_out(plan, 0, shadow=FULL_SHARE, outputs=TOTALS)
    worker = start_worker(plan, folder=folder).wait_ready()
    assert worker.predict("e", [[4, 0, 0]] * 1_025).status_code == 200
    for number in range(1, 4):
        assert worker.predict("e", [[4, 0, 0]]).status_code == 200
        eventually(lambda n=number: bins(folder).get("canary") == {1: n}, "the copy is answered")
    assert bins(folder) == {"stable": {0: 3}, "canary": {1: 3}}


def test_how_sure_answers_are_is_counted_where_it_is_watched(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """One value per request."""
    plan = make_plan()
    two = Signature((Field("x", DType.FLOAT64, (2,)),), (Field("probabilities", DType.FLOAT64, (2,)),), Container.ARRAY)
    for number in (1, 2):
        plan.package(number, kind="echo", signature=two)
    roll_out(plan, FULL_SHARE, probabilities="probabilities")
    worker = start_worker(plan, folder=folder).wait_ready()
    for rows in ([[0.25, 0.75]], [[0.5, 0.5], [1.0, 0.0]]):
        assert worker.predict("e", rows).status_code == 200
    assert counted(folder).metrics == (MetricCount(1, CONFIDENCE, "canary", 2, 1.5),)


def test_copies_that_fail_are_logged_seldom(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """The first at once, with the version's error; further ones in one line, and no line for copies that are answered."""
    plan = planted(make_plan(), "poison")
    roll_out(plan, 0, shadow=FULL_SHARE)
    worker = start_worker(plan, folder=folder).wait_ready()
    for number, rows in enumerate([[[1, 2, 3]], UNLUCKY, UNLUCKY, UNLUCKY], start=1):
        worker.predict("e", rows)
        eventually(lambda n=number: pairs(folder).get("errors", (0,))[0] == n, "the copy is answered")
    eventually(lambda: pairs(folder)["errors"] == (4, 3, 0), "all are counted")
    eventually(lambda: "copy-failed" in (folder / "log").read_text(), "it is logged")
    lines = [line for line in (folder / "log").read_text().splitlines() if "copy-failed" in line]
    (logged,) = [json.loads(line) for line in lines]
    assert (logged["code"], logged["rollout"], logged["copies"]) == ("model-failed", "r", 1)
    assert logged["digest"] == plan.packages[1].digest


def test_a_slow_copy_delays_no_caller(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """While it runs, callers are answered as usual; copies that find no room are dropped and counted."""
    plan = planted(make_plan(), "gated")
    roll_out(plan, 0, shadow=FULL_SHARE, slow_us=500_000)
    worker = start_worker(plan, folder=folder).wait_ready()
    assert ask(worker, [[1, 1, 0]], 60) == {("m:1", 200): 60}
    assert not counted(folder).pairs
    excluded = {(each.reason, each.variant): each.count for each in counted(folder).excluded}
    assert excluded["shed", "canary"] > 40
    worker.open_gate()
    eventually(lambda: counted(folder).pairs, "the first copy is answered")


def test_a_shadowed_version_that_is_not_there(start_worker: Any, make_plan: Any, planted_agent: Any, folder: Path) -> None:
    """The endpoint stays as it was; a worker that starts then serves without the shadowed version, and reports an old
    revision."""
    plan = planted(make_plan(), "refused")
    plan.endpoint("e", [plan.packages[0].digest])
    agent = planted_agent(folder)
    worker = start_worker(plan, folder=folder).wait_ready()
    roll_out(plan, 0, generation=2, shadow=FULL_SHARE)
    agent.offer(plan.snapshot(2))
    eventually(lambda: agent.last().offered == 2, "it was offered")
    eventually(lambda: any(each.code == "package-refused" for each in agent.last().versions), "it cannot be loaded")
    assert agent.last().revision == 1
    assert ask(worker, [[1, 2, 3]], 3) == {("m:1", 200): 3}
    other = start_worker(plan, snapshot=plan.snapshot(2), folder=folder / "other").wait_ready()
    assert ask(other, [[1, 2, 3]], 3) == {("m:1", 200): 3}
    assert counted(folder / "other") == RolloutCounts("r")


def test_samples_and_pairs_survive_telemetry(start_worker: Any, make_plan: Any, folder: Path) -> None:
    """The counts are the same after telemetry's encoding and decoding."""
    plan = planted(make_plan(), "sum")
    roll_out(plan, 0, shadow=FULL_SHARE)
    worker = start_worker(plan, folder=folder).wait_ready()
    ask(worker, [[1, 2, 3]], 1)
    eventually(lambda: counted(folder).pairs, "the copy is answered")
    found = msgspec.json.decode(msgspec.json.encode(counted(folder)), type=RolloutCounts)
    assert VariantCount(1, "errors", "stable", 1, 0) in found.variants
    assert PairCount(1, "errors", 1, 0, 0) in found.pairs
