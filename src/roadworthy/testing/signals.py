"""The conformance suite for signals, as checks that run on one signal and examples of what it counts.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_signal(check):
        check(SignalCase(MY_SIGNAL, signature, good=[answered(signature, [{"price": 3.0}])], bad=[…]))

A failed check raises AssertionError with a sentence. `tests/conformance` runs all checks on every signal of Roadworthy that
workers count.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from roadworthy.contract.evidence import CANARY, OUTPUT_BINS, STABLE, BinCount, PairCount, RolloutCounts, VariantCount
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.foundation.errors import DeadlineExceeded, InvalidRequest, ModelFault
from roadworthy.rollout.decide.alerts import Look, signal_alerts
from roadworthy.rollout.decide.state import State
from roadworthy.rollout.decide.verdict import FAIL, PASS, Scope, Segment, judge
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.parse import check_plan
from roadworthy.rollout.plan.plan import Plan
from roadworthy.rollout.words import say
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Signature
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import (
    COUNTED,
    CRITERION,
    MOST_BINS,
    OBSERVER,
    BinSignal,
    OutcomeSignal,
    PairSignal,
    Seen,
    Signal,
    Use,
)

Example = Seen | tuple[Batch, Batch] | Batch
"""What the signal's judge is asked: an outcome, the stable's and the canary's answer, or one answer."""
_GENERATION = 1
_REQUESTS = 100_000


@dataclass(frozen=True)
class SignalCase:
    """A signal under test.

    Attributes:
        signal: what its entry point names.
        signature: of an endpoint that it can be measured on.
        good, bad: examples that are a sample, and not a bad event, and that are one; for a BinSignal, answers in other bins than
            those of `good`.
        parameters: what a plan says of the signal's own parameters; every one that has no default.
        slow_us: the stable's 95th percentile of run times, microseconds.
    """

    signal: Signal
    signature: Signature
    good: Sequence[Example]
    bad: Sequence[Example]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    slow_us: int | None = 10_000

    @property
    def use(self) -> Use:
        """The endpoint, with the parameters as a worker gets them."""
        return Use(self.signature, self.in_plan(self.parameters), self.slow_us)

    def plan(self, parameters: Mapping[str, Any]) -> Plan:
        """A plan with this signal alone, as a person writes it."""
        strategy = {"strategy": "shadow" if isinstance(self.signal, PairSignal) else "canary"}
        if isinstance(self.signal, BinSignal):
            return check_plan({**strategy, "criteria": [], "watch": {self.signal.name: dict(parameters)}})
        return check_plan({**strategy, "criteria": {self.signal.name: dict(parameters)}})

    def in_plan(self, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """The signal's own parameters in that plan, after the way to the store and to a worker."""
        plan = self.plan(parameters)
        (found,) = plan.watches if isinstance(self.signal, BinSignal) else plan.criteria
        carried: dict[str, Any] = json.loads(json.dumps(found.parameters))
        return carried

    def bound(self) -> Callable[[Example], Any]:
        """The judge of that endpoint, for any kind of example."""
        assert isinstance(self.signal, COUNTED), "it does not derive from a class of signals that workers count"
        bound: Any = self.signal.bind(self.use)
        return lambda example: bound(*example) if isinstance(example, tuple) else bound(example)


Check = Callable[[SignalCase], None]


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def rows_of(signature: Signature, rows: list[Any]) -> Batch:
    """Rows of JSON values as an answer of that endpoint."""
    return decode_rows(Layout(signature.outputs), rows)[0]


def answered(signature: Signature, rows: list[Any], *, inputs: list[Any] | None = None, ran_us: int = 1_000) -> Seen:
    """The outcome of a request whose answer has these rows.

    Args:
        inputs: the rows of the request, for a signal with `needs_inputs`.
    """
    asked = None if inputs is None else decode_rows(Layout(signature.inputs), inputs)[0]
    return Seen(None, ran_us, _Whole(rows_of(signature, rows)), asked)


def failed(code: str = "model-fault", *, ran_us: int = 1_000) -> Seen:
    """The outcome of a request on which the version failed."""
    return Seen(ModelFault("the model failed", code=code), ran_us)


def late(*, ran_us: int = 1_000) -> Seen:
    """The outcome of a request that had no answer at its deadline."""
    return Seen(DeadlineExceeded("the deadline passed"), ran_us, late=True)


@dataclass(frozen=True)
class _Whole:
    rows: Batch

    def batch(self) -> Batch:
        """All rows."""
        return self.rows


def check_found_by_name(case: SignalCase) -> None:
    """The process has the signal under its own name."""
    assert signal_named(case.signal.name) is case.signal, f"{case.signal.name} is not found by its name"


def check_says_what_it_counts(case: SignalCase) -> None:
    """Texts and defaults are of the kind that plans, pages and estimates need."""
    signal = case.signal
    assert isinstance(signal, COUNTED), "it does not derive from a class of signals that workers count"
    expected = OBSERVER if isinstance(signal, BinSignal) else CRITERION
    assert signal.kind == expected, f"its kind is {signal.kind}; of its class it must be {expected}"
    assert signal.event, "it does not say in words what it counts"
    assert "\n" not in signal.event, "its event has several lines"
    assert 0.1 <= signal.ratio <= 100, f"the ratio {signal.ratio} is not allowed in a plan"
    assert signal.limit is None or 0.0 < signal.limit < 1.0, f"the limit {signal.limit} is no rate"
    assert 0.0 <= signal.usual < signal.allowed(signal.ratio, 1.5) < 1.0, "a good version could never be shown to be good"
    if isinstance(signal, PairSignal):
        assert signal.limit, "pairs are compared with a limit, and it has none"
    if isinstance(signal, BinSignal):
        assert 2 <= len(signal.bins) <= MOST_BINS, f"it has {len(signal.bins)} bins; expected 2 to {MOST_BINS}"
        assert 0.0 < signal.tolerance < 1.0, f"the tolerance {signal.tolerance} is not a part of the answers"


def check_tells_good_from_bad(case: SignalCase) -> None:
    """Of each example the judge says what it is: true or false, or the number of a bin."""
    judged = case.bound()
    assert case.good, "the case has no good example"
    assert case.bad, "the case has no bad example"
    if isinstance(case.signal, BinSignal):
        bins = [{judged(example) for example in examples} for examples in (case.good, case.bad)]
        wrong = [each for each in bins[0] | bins[1] if type(each) is not int or not 0 <= each < len(case.signal.bins)]
        assert not wrong, f"{wrong} are not numbers of its bins"
        assert not bins[0] & bins[1], "good and bad examples are in the same bin"
        return
    for examples, expected in ((case.good, False), (case.bad, True)):
        for example in examples:
            found = judged(example)
            assert type(found) is bool, f"it says {found!r} of an example; expected true or false"
            assert found is expected, f"it says {found} of an example that is {'bad' if expected else 'good'}"


def check_takes_every_outcome(case: SignalCase) -> None:
    """A failure, a late request and an answer without rows are judged, or say nothing; nothing is raised."""
    judged = case.bound()
    answer = _answer_of(case.good[0])
    empty = None if answer is None else answer.slice(0, 0)
    asked: list[Example] = []
    if isinstance(case.signal, OutcomeSignal):
        asked = [failed(), failed("non-finite-output"), failed(ran_us=-1), late(), late(ran_us=-1)]
        asked += [] if empty is None else [Seen(None, -1, _Whole(empty))]
    elif empty is not None:
        asked = [(empty, empty)] if isinstance(case.signal, PairSignal) else [empty]
    for example in asked:
        found = judged(example)
        assert found is None or type(found) in (bool, int), f"it says {found!r} of {example!r:.100}"


def check_remembers_nothing(case: SignalCase) -> None:
    """What it says of an example depends on no other: requests come in any order, and to several workers."""
    examples = [*case.good, *case.bad]
    one, other = case.bound(), case.bound()
    forth = [one(example) for example in examples]
    back = [one(example) for example in reversed(examples)]
    assert back == forth[::-1], "in another order it judges otherwise"
    assert [other(example) for example in examples] == forth, "on another worker it judges otherwise"


def check_other_endpoints_are_refused_in_words(case: SignalCase) -> None:
    """Where it cannot be measured, `bind` raises ValueError with a sentence, which the refused rollout shows."""
    reason = "nothing"
    try:
        case.signal.bind(case.use._replace(signature=Signature((), ())))  # type: ignore[attr-defined]  # one that workers count
    except ValueError as error:
        reason = str(error)
    assert reason, "it refuses an endpoint without a reason"


def check_its_parameters_are_a_plans(case: SignalCase) -> None:
    """A plan takes the parameters of the case, and refuses others; they reach the worker as they are in the plan."""
    assert set(case.in_plan(case.parameters)) >= set(case.parameters), "a plan loses parameters"
    try:
        case.plan({**case.parameters, "no_such_parameter": 1})
    except InvalidRequest:
        return
    raise AssertionError("a plan takes a parameter that the signal does not have")


def check_a_rollout_is_decided_by_it(case: SignalCase) -> None:
    """Of equal versions the evidence passes or stays quiet; where all of the canary's are bad, it accuses or alarms."""
    judged = case.bound()
    counts = {bad: [judged(example) for example in examples] for bad, examples in ((False, case.good), (True, case.bad))}
    if isinstance(case.signal, BinSignal):
        assert not _alarm(case, counts[False], counts[False]), "equal versions raise an alarm"
        assert _alarm(case, counts[False], counts[True]), "a version whose answers are in other bins raises no alarm"
        return
    equal, worse = _verdict(case, counts[False], counts[False]), _verdict(case, counts[False], counts[True])
    assert equal == PASS, f"equal versions get {equal}"
    assert worse == FAIL, f"a version that is always bad gets {worse}"


def _answer_of(example: Example) -> Batch | None:
    if isinstance(example, Seen):
        return example.outputs
    return example[0] if isinstance(example, tuple) else example


def _verdict(case: SignalCase, stable: Sequence[bool], canary: Sequence[bool]) -> str:
    name = case.signal.name
    bad = [_REQUESTS * sum(each) // len(each) for each in (stable, canary)]
    if isinstance(case.signal, PairSignal):
        segment = Segment(_GENERATION, 0, FULL_SHARE)
        counted = RolloutCounts("r", pairs=(PairCount(_GENERATION, name, _REQUESTS, bad[1]),))
    else:
        segment = Segment(_GENERATION, FULL_SHARE // 2)
        samples = zip((STABLE, CANARY), bad, strict=True)
        counted = RolloutCounts(
            "r", tuple(VariantCount(_GENERATION, name, variant, _REQUESTS, each) for variant, each in samples)
        )
    scope = Scope((segment,), step_from=_GENERATION, limit_from=0, needed=100)
    return judge(case.plan(case.parameters), scope, Evidence().merged("gateway", counted)).outcome


def _alarm(case: SignalCase, stable: Sequence[int], canary: Sequence[int]) -> bool:
    cells = [tuple(10_000 * found.count(number) for number in range(OUTPUT_BINS)) for found in (stable, canary)]
    bins = [
        BinCount(_GENERATION, 0, variant, each, case.signal.name) for variant, each in zip((STABLE, CANARY), cells, strict=True)
    ]
    evidence = Evidence().merged("gateway", RolloutCounts("r", bins=tuple(bins)))
    state = State("r", segments=(Segment(_GENERATION, FULL_SHARE // 2),), step_from=_GENERATION)
    (alert,) = signal_alerts(Look(case.plan(case.parameters), state, evidence, ()))
    assert alert.samples, f"the counts are not seen: {say(alert.why)}"
    return alert.raised


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_says_what_it_counts,
    check_tells_good_from_bad,
    check_takes_every_outcome,
    check_remembers_nothing,
    check_other_endpoints_are_refused_in_words,
    check_its_parameters_are_a_plans,
    check_a_rollout_is_decided_by_it,
)
