"""Plans as people write them: every strategy becomes steps; all faults are reported at once, with suggestions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roadworthy.foundation.errors import InvalidRequest
from roadworthy.rollout.plan.parse import check_plan, duration_s, read_plan
from roadworthy.rollout.plan.plan import (
    END,
    PROMOTE,
    WAIT,
    Criterion,
    Metric,
    Plan,
    Stage,
    Sticky,
    Watch,
    plan_from_document,
)
from roadworthy.rollout.plan.preflight import Facts, obstacles


def problems(text: str | dict[str, Any]) -> dict[str, str]:
    """Every fault by its path."""
    with pytest.raises(InvalidRequest) as caught:
        read_plan(text) if isinstance(text, str) else check_plan(text)
    assert caught.value.code == "invalid-plan"
    found = caught.value.facts["problems"]
    assert isinstance(found, list)
    return {each["path"]: each["problem"] for each in found}


def test_a_canary_with_everything() -> None:
    """Each key lands where it belongs; a step may differ from the others."""
    plan = read_plan("""
strategy: canary
steps:
  - {shadow: 20, hold: 1h}
  - 5
  - {share: 12.5, evidence: 500}
  - {share: 100, approve: true, hold: 1h30m}
hold: 10m
evidence: 200
alpha: 1e-3
beta: 0.01
criteria:
  errors: {limit: 0.02}
  slow: {ratio: 1.5, weight: 2}
  disagreement: {limit: 0.005}
  custom.refused_cards:
watch: {drift: hold, confidence: alert}
sticky: {field: customer_id}
deadline: 2d
at_deadline: hold
crashes: 5
""")
    assert plan == Plan(
        "canary",
        (
            Stage(0, 2_000, 3_600, 200),
            Stage(500, 0, 600, 200),
            Stage(1_250, 0, 600, 500),
            Stage(10_000, 0, 5_400, 200, approve=True),
        ),
        PROMOTE,
        alpha=0.001,
        beta=0.01,
        criteria=(
            Criterion("errors", limit=0.02),
            Criterion("slow", ratio=1.5, weight=2.0),
            Criterion("disagreement", limit=0.005),
            Criterion("custom.refused_cards"),
        ),
        watches=(Watch("drift", "hold"), Watch("confidence", "alert")),
        sticky=Sticky(field="customer_id"),
        deadline_s=172_800.0,
        at_deadline="hold",
        crashes=5,
    )


def test_every_strategy_is_steps() -> None:
    """With the defaults that a person expects."""
    canary = read_plan("strategy: canary")
    assert [stage.weight for stage in canary.steps] == [500, 2_500, 5_000, 10_000]
    assert [criterion.signal for criterion in canary.criteria] == ["errors", "invalid_outputs", "slow"]
    assert canary.alphas() == pytest.approx({"errors": 0.005, "invalid_outputs": 0.0025, "slow": 0.0025})
    assert canary.criteria[2].ratio == 1.25
    assert read_plan("strategy: blue-green\nbake: 30m").steps == (Stage(10_000, 0, 1_800, 100),)
    test = read_plan("strategy: ab\nsticky: {header: X-User}\nmetrics: {converted: , revenue: {high: 500}}")
    assert (test.steps, test.after, test.deadline_s) == ((Stage(5_000, 0, 3_600, 100),), WAIT, None)
    assert test.metrics == (Metric("converted"), Metric("revenue", 0.0, 500.0))
    assert test.sticky == Sticky(header="X-User")
    shadow = read_plan("strategy: shadow\nshare: 25")
    assert (shadow.steps[0].shadow, shadow.steps[0].weight, shadow.after) == (2_500, 0, END)
    assert shadow.criteria[-1] == Criterion("disagreement", limit=0.01)
    assert read_plan("strategy: all-at-once").steps == (Stage(10_000, 0, 0, 0),)


def test_all_faults_are_reported_at_once() -> None:
    """With the most similar name, or all known ones."""
    found = problems("""
strategy: canary
step: [5]
steps: [5, 150, 3, much]
hold: soon
alpha: 3
criteria:
  errors: {limt: 0.1, ratio: fast}
  latency:
  drift: {}
  disagreement:
watch: {errors: hold, drift: sometimes}
sticky: {cookie: a}
deadline: 10m
at_deadline: promote
""")
    assert found["step"] == "unknown key; did you mean steps?"
    assert found["steps[1]"] == "must be from 0.01 to 100, got 150.0"
    assert found["steps[2]"] == "each step must give the new version more than the previous one"
    assert found["steps[3]"] == "expected a number, got text ('much')"
    assert found["hold"] == "expected a time such as 90s, 10m or 1h30m, got 'soon'"
    assert found["alpha"] == "must be from 1e-06 to 0.2, got 3.0"
    assert found["criteria.errors.limt"] == "unknown key; did you mean limit?"
    assert found["criteria.errors.ratio"] == "expected a number, got text ('fast')"
    assert (
        "unknown signal; known are disagreement, errors, feedback, guard_hits, invalid_outputs, slow, custom.NAME"
        in (found["criteria.latency"])
    )
    assert "can only hold or alert" in found["criteria.drift"]
    assert "in shadow steps only" in found["criteria.disagreement"]
    assert "known are business, confidence, drift, resources" in found["watch.errors"]
    assert found["watch.drift"] == "expected hold or alert, got text ('sometimes')"
    assert found["sticky.cookie"] == "unknown key; known are field, header"
    assert found["deadline"] == "must be longer than the steps, which last 2400 s"
    assert found["at_deadline"] == "expected rollback or hold, got text ('promote')"
    assert len(found) == 16


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("", "", "a plan is a mapping"),
        ("[canary]", "", "a plan is a mapping"),
        ("strategy: cannary", "strategy", "did you mean canary?"),
        ("steps: [5]", "strategy", "is missing; known are canary, blue-green"),
        ("strategy: blue-green\nsteps: [5]", "steps", "unknown key"),
        ("strategy: canary\nsteps: []", "steps", "must have from 1 to 50 items, got 0"),
        ("strategy: canary\nsteps: 5", "steps", "expected a list"),
        ("strategy: canary\nsteps: [{share: 5, shadow: 5}]", "steps[0]", "either `share` or `shadow`"),
        ("strategy: canary\nsteps: [0.001]", "steps[0]", "must be from 0.01 to 100"),
        ("strategy: canary\nsteps: [5.123]", "steps[0]", "at most two decimals"),
        ("strategy: canary\nevidence: 1.5", "evidence", "expected a whole number"),
        ("strategy: canary\ncriteria: [errors, errors]", "criteria.errors", "is listed twice"),
        ("strategy: canary\ncriteria: {errors: 3}", "criteria.errors", "expected a mapping of its settings"),
        ("strategy: canary\ncriteria: 3", "criteria", "expected a list of names"),
        ("strategy: canary\ncriteria: [custom.Bad]", "criteria.custom.Bad", "unknown signal"),
        ("strategy: canary\nsteps: [{share: 5, approve: maybe}]", "steps[0].approve", "expected true or false"),
        ("strategy: ab\nmetrics: {revenue: {low: 5, high: 5}}", "metrics.revenue", "must be under"),
        (
            "strategy: shadow\ncriteria: {disagreement: {limit: }}",
            "criteria.disagreement.limit",
            "expected a number, got null",
        ),
        ("strategy: canary\nsticky: {field: a, header: b}", "sticky", "expected `{field: NAME}`"),
        ("strategy: canary\nsticky: user", "sticky", "expected an object"),
        ("strategy: ab\nshare: 100", "share", "0.01 to 99.99"),
        ("strategy: canary\nsticky: {header: 'a b'}", "sticky.header", "expected the name of a header"),
        ("strategy: canary\nstrategy: ab", "", "the key strategy appears again in line 2"),
        ("strategy: &a canary\nsteps: *a", "", "has an anchor"),
        ("strategy: !!python/name:int canary", "", "a type that plans do not have"),
        ("a: " + "[" * 5_000, "", "nested more than"),
        ("strategy: [", "", "unreadable in line 1"),
        ("x" * 70_000, "", "at most 64 KiB"),
        ("strategy: canary\ndeadline: 1:30", "deadline", "got '1:30'"),
        ("strategy: canary\nalpha: " + "9" * 400, "alpha", "expected a number, got one that is too large"),
        ("strategy: canary\nhold: .inf", "hold", "expected a time"),
    ],
)
def test_one_fault(text: str, path: str, problem: str) -> None:
    """Each with its place, in words."""
    found = problems(text)
    assert list(found) == [path]
    assert problem in found[path]


def test_json_is_read_too() -> None:
    """YAML includes JSON; decoded values are checked by the same code."""
    document = {"strategy": "canary", "steps": [10, 100], "hold": 30, "criteria": {"errors": {"limit": None}}}
    plan = read_plan(json.dumps(document))
    assert plan == check_plan(document)
    assert plan.criteria == (Criterion("errors"),)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["errors", "10m"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        "steps",
        "hold",
        "evidence",
        "alpha",
        "beta",
        "criteria",
        "watch",
        "sticky",
        "deadline",
        "share",
        "metrics",
        "bake",
    ]
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # nested values take their time to be made up
@given(st.sampled_from(["canary", "blue-green", "ab", "shadow", "all-at-once"]), st.dictionaries(KEYS, VALUES, max_size=4))
def test_any_values_are_read_or_refused(strategy: str, rest: dict[str, Any]) -> None:
    """Never another error; a parsed plan survives the store."""
    try:
        plan = check_plan({"strategy": strategy, **rest})
    except InvalidRequest:
        assert problems({"strategy": strategy, **rest})
    else:
        assert plan_from_document(json.loads(json.dumps(plan.to_document()))) == plan
        assert sum(plan.alphas().values()) <= plan.alpha * (1 + 1e-9)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never another error."""
    with pytest.raises(InvalidRequest, match="the plan is not valid"):
        read_plan(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5_400), ("2d", 172_800), ("0.5s", 0.5), (45, 45), ("", None), ("5", None)],
)
def test_times(text: object, seconds: float | None) -> None:
    """With a unit, or a plain number of seconds."""
    assert duration_s(text) == seconds


def test_documents_of_another_format_are_refused() -> None:
    """Rather than half understood."""
    with pytest.raises(ValueError, match="unknown plan format 3"):
        plan_from_document({**read_plan("strategy: canary").to_document(), "format": 3})
    with pytest.raises(ValueError, match="not a plan"):
        plan_from_document({"format": 1})


STORED = """{"strategy":"canary","steps":[{"weight":2500,"shadow":0,"hold_s":600.0,"evidence":100,"approve":false},
{"weight":10000,"shadow":0,"hold_s":600.0,"evidence":100,"approve":false}],"after":"promote","alpha":0.01,"beta":0.05,"guards":[
{"signal":"errors","ratio":1.0,"margin":1.5,"limit":0.05,"weight":null,"evidence":null},{"signal":"custom.refund","ratio":2.0,
"margin":1.5,"limit":null,"weight":3.0,"evidence":0}],"watches":[],"metrics":[],"sticky":null,"deadline_s":86400.0,
"at_deadline":"rollback","crashes":3,"format":1}"""
"""The plan that a store of the first format holds for OLD."""
OLD = "strategy: canary\nsteps: [25, 100]\nguards: {errors: , custom.refund: {ratio: 2, weight: 3, evidence: 0}}"


def test_a_plan_of_the_first_format_is_still_read() -> None:
    """It calls criteria `guards`: in a person's file, in the store, and with the same meaning."""
    plan = read_plan(OLD.replace("guards", "criteria"))
    assert [each.signal for each in plan.criteria] == ["errors", "custom.refund"]
    assert read_plan(OLD) == plan
    assert plan_from_document(json.loads(STORED)) == plan
    written = plan.to_document()
    assert "guards" not in written
    assert plan_from_document(written) == plan


def test_a_stored_plan_with_both_names_is_refused() -> None:
    """Neither list is dropped without a word."""
    stored = read_plan("strategy: canary").to_document() | {"format": 1}
    assert plan_from_document(stored).criteria
    with pytest.raises(ValueError, match="this one has both"):
        plan_from_document(stored | {"guards": [{"signal": "errors"}]})


def test_a_plan_with_both_names_is_refused() -> None:
    """Neither list is silently left out."""
    with pytest.raises(InvalidRequest, match="guards: unknown key"):
        read_plan("strategy: canary\ncriteria: [errors]\nguards: [slow]")


def test_preflight_reports_every_obstacle_at_once() -> None:
    """Before anything changes; a rollout without obstacles may begin."""
    plan = read_plan("strategy: canary\nsticky: {field: user}")
    fine = Facts("flights:1", "flights:2", fields=("user",), slow_ms=12.5)
    assert obstacles(plan, fine) == ()
    bad = Facts("flights:1", "flights:2", False, "a column is missing", None, "it crashes")
    assert [each.code for each in obstacles(plan, bad)] == [
        "stable-not-ready",
        "signature-incompatible",
        "kept-out",
        "no-such-field",
        "no-baseline",
    ]
    named = Facts("flights:1", "flights:2", difference="a column is missing", accepted_by="ada", slow_ms=1.0)
    assert obstacles(read_plan("strategy: canary"), named) == ()
    assert [each.code for each in obstacles(plan, Facts(None, "flights:2", fields=("user",), slow_ms=1.0))] == ["no-stable"]
    assert [each.code for each in obstacles(plan, Facts("a:2", "a:2", fields=("user",), slow_ms=1.0))] == ["same-version"]


def test_preflight_refuses_signals_that_cannot_be_measured() -> None:
    """A rollout would wait for them without end. Signals outside the plan do not matter."""
    plan = read_plan("{strategy: canary, criteria: [errors, guard_hits], watch: [drift, resources]}")
    why = {"guard_hits": "there are no criteria", "drift": "no bins", "confidence": "no probabilities"}
    found = obstacles(plan, Facts("a:1", "a:2", slow_ms=1.0, unmeasurable=why))
    assert [(each.code, each.text) for each in found] == [
        ("signal-not-measurable", "guard_hits cannot be measured: there are no criteria"),
        ("signal-not-measurable", "drift cannot be measured: no bins"),
    ]
    assert obstacles(plan, Facts("a:1", "a:2", slow_ms=1.0)) == ()


@pytest.mark.parametrize(
    ("steps", "refused"),
    [("steps: [100]", True), ("steps: [5, 100]", False), ("steps: [{shadow: 20}, 100]", False)],
)
def test_preflight_wants_a_step_to_compare_answers_in(steps: str, refused: bool) -> None:
    """At 100 % only the new version answers; the memory of both can still be compared."""
    plan = read_plan("{strategy: canary, watch: [drift, resources], " + steps + "}")
    found = obstacles(plan, Facts("a:1", "a:2", slow_ms=1.0))
    assert [each.text for each in found] == (["drift cannot be measured: in no step do both versions answer"] if refused else [])


def test_watches_have_tolerances() -> None:
    """The signal's default if none is given; a metric's better side is the higher one."""
    plan = read_plan("""
strategy: ab
metrics: {revenue: {high: 500}, delay: {better: lower}}
watch: {drift: {tolerance: 0.2}, confidence: {on_alarm: alert}, resources: {tolerance: 2}, business: hold}
""")
    assert plan.watches == (
        Watch("drift", "hold", 0.2),
        Watch("confidence", "alert"),
        Watch("resources", "hold", 2.0),
        Watch("business", "hold"),
    )
    assert [watch.tolerated for watch in plan.watches] == [0.2, 0.05, 2.0, 0.0]
    assert [metric.better for metric in plan.metrics] == ["higher", "lower"]
    assert plan_from_document(plan.to_document()) == plan


def test_faults_of_watches_are_reported() -> None:
    """A part is under 1 and a ratio is not; business values need to be named."""
    found = problems("""
strategy: canary
watch:
  drift: {tolerance: 2}
  resources: {tolerance: 0.5}
  confidence: {tolerance: much, on_alarm: hide}
  business: {tolerance: 0.1, on_alrm: hold}
""")
    assert found["watch.drift.tolerance"] == "expected a part, under 1, got 2"
    assert found["watch.resources.tolerance"] == "expected a multiple of the stable's, 1 or more, got 0.5"
    assert found["watch.confidence.tolerance"] == "expected a number, got text ('much')"
    assert found["watch.confidence.on_alarm"] == "expected hold or alert, got text ('hide')"
    assert found["watch.business.tolerance"].startswith("not possible here")
    assert found["watch.business.on_alrm"] == "unknown key; did you mean on_alarm?"
    assert found["watch.business"] == "needs `metrics`, which name the values to watch"
