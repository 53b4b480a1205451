"""Layers of plug-ins: what a policy may ask for, where they stand around a version, and what happens where one is missing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from roadworthy.contract.evidence import PairCount, RolloutCounts
from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback, Policy
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, RolloutEntry, Snapshot, VariantEntry
from roadworthy.contract.telemetry import READY, VersionState, WorkerReport
from roadworthy.control.resources.policies import LAYERS, merged
from roadworthy.foundation import plugins
from roadworthy.foundation.errors import InvalidRequest, ModelFault, Unavailable
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.monitoring.gateways import Gateway
from roadworthy.runtime.layers.breaker import OwnCells
from roadworthy.runtime.layers.cache import Found, Shared
from roadworthy.runtime.layers.layer import ChangedAnswers, Fence, LayerContext, Taken
from roadworthy.runtime.layers.stack import LayerRefused, layered, only_plugins
from roadworthy.runtime.manager import Manager, Version
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest, Submitter
from roadworthy.runtime.placement import INLINE, Placed
from roadworthy.runtime.queue.batching import Batcher
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.serving.admission import Admission
from roadworthy.serving.endpoint import Unbindable, bind
from roadworthy.serving.metrics import WorkerMetrics, open_worker_metrics, read_totals
from roadworthy.serving.reload import Edge, Identity, ServingState
from roadworthy.testing.layers import LayerCase, check_a_failure_is_the_outcome
from tests.plugins.installed import write_distribution
from tests.waiting import HandClock, soon

SIGNATURE = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),), Container.ARRAY)
INPUTS, OUTPUTS = Layout(SIGNATURE.inputs), Layout(SIGNATURE.outputs)
ROW = Batch(INPUTS, 1, (Block(np.ones((1, 1))),))
DIGEST = "sha256:" + "a" * 64
NAME = "planted-layers"
MODULE = """
from dataclasses import dataclass
from typing import Annotated

from roadworthy.foundation.documents import Bounds
from roadworthy.runtime.layers.cache import Found, Shared
from roadworthy.runtime.layers.layer import ChangedAnswers


@dataclass(frozen=True)
class Plus:
    by: Annotated[float, Bounds(-10, 10)]
    output: str = "y"


class Layer:
    interface = 1
    parameters = Plus

    def __init__(self, name, order):
        self.name, self.order = name, order

    def __repr__(self):
        return self.name

    def check(self, parameters, signature):
        if parameters.output not in [field.name for field in signature.outputs]:
            raise ValueError(f"no output {parameters.output}")

    def wrap(self, below, parameters, context):
        if parameters.by == 10:
            raise OSError("no such library")
        if parameters.by == 8:
            return Raises(below)
        if parameters.by == 9:
            return ChangedAnswers(below, lambda answer: 1 / 0)
        if parameters.by == 8:
            return ChangedAnswers(ChangedAnswers(below, lambda answer: answer), lambda answer: answer.nothing)
        return Named(below, self.name, lambda answer: self.add(parameters.by, answer))

    def add(self, by, answer):
        from roadworthy.runtime.pending import Answer
        from roadworthy.schema.batch import Batch, Block
        batch = answer.batch()
        changed = Batch(batch.layout, batch.rows, (Block(batch.blocks[0].values + by),))
        return Answer(changed, 0, batch.rows, answer.source, answer.notes, answer.by, answer.instead_of)


class Named(ChangedAnswers):
    def __init__(self, below, name, change):
        super().__init__(below, change)
        self.name = name

    def __repr__(self):
        return f"{self.name} -> {self._below!r}"


class Raises:
    raised = []

    def __init__(self, below):
        self._below = below

    def submit(self, batch, request):
        error = self.raised.pop(0)
        if error is not None:
            raise error
        self._below.submit(batch, request)


OUTER, INNER = Layer("outer", 50), Layer("inner", 250)
"""
ENTRIES = """
[roadworthy.layers]
outer = planted_layers:OUTER
inner = planted_layers:INNER
"""


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with two layers, which is allowed."""
    write_distribution(tmp_path, NAME, ENTRIES, MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "planted_layers", raising=False)
    plugins.allow([NAME])
    yield
    plugins.allow(())


def problems(asked: Any) -> dict[str, str]:
    """The faults of a policy by path."""
    with pytest.raises(InvalidRequest) as refused:
        merged(None, {"layers": asked})
    found = cast("list[dict[str, str]]", refused.value.facts["problems"])
    return {each["path"]: each["problem"] for each in found}


def test_a_policy_keeps_the_parameters_of_each_layer() -> None:
    """With their defaults; one parameter is changed and the others stay; null removes one layer, or all of them."""
    first = merged(None, {"layers": {"outer": {"by": 2}}})
    assert first["layers"] == {"outer": {"by": 2.0, "output": "y"}}
    second = merged(first, {"layers": {"outer": {"output": "z"}, "inner": {"by": 1}}, "timeout_ms": 5})
    assert second["layers"] == {"outer": {"by": 2.0, "output": "z"}, "inner": {"by": 1.0, "output": "y"}}
    assert merged(second, second) == second
    assert merged(second, None) == second
    assert list(merged(second, {"layers": {"outer": None}})["layers"]) == ["inner"]
    assert merged(second, {"layers": None})["layers"] == {}


def test_wrong_parameters_are_named_with_their_paths() -> None:
    """By the declaration of the layer."""
    assert problems({"outer": {"by": 11, "too": 1}, "inner": {}}) == {
        "layers.outer.by": "must be from -10 to 10, got 11.0",
        "layers.outer.too": "unknown key; known are by, output",
        "layers.inner.by": "is missing",
    }
    assert list(problems({"outer": 5})) == ["layers.outer"]
    assert list(problems(5)) == ["layers"]


@pytest.mark.parametrize("name", ["nowhere", "cache"])
def test_a_layer_that_is_not_loaded_is_refused(name: str) -> None:
    """By name. Our own layers have policies of their own. One that was set before stays when it is not asked for again."""
    with pytest.raises(InvalidRequest, match=name) as refused:
        merged(None, {"layers": {name: {}}, "timeout_ms": -1})
    assert (refused.value.code, refused.value.facts["known"]) == ("unknown-layer", ["inner", "outer"])
    stored = merged(None, {"layers": {"outer": {"by": 2}}})
    plugins.allow(())
    assert merged(stored, {"timeout_ms": 5})["layers"] == stored["layers"]
    with pytest.raises(InvalidRequest, match="outer"):
        merged(stored, {"layers": {"outer": {"by": 3}}})
    assert merged(stored, {"layers": {"outer": None}})["layers"] == {}


def test_gateways_of_the_release_before_pass_over_layers() -> None:
    """Their policy has no such member, and is read all the same: so the control plane asks what a gateway has loaded."""
    before = [(each.name, each.type, each.default) for each in msgspec.structs.fields(Policy) if each.name != "layers"]
    known = msgspec.defstruct("Before", before, frozen=True)
    policy = Policy(timeout_ms=7, layers={"outer": {"by": 2.0}})
    assert cast("Any", msgspec.json.decode(msgspec.json.encode(policy), type=known)).timeout_ms == 7
    workers = [WorkerReport(0, 1, "b", "e", 1, 1, layers=layers) for layers in (("inner", "outer"), ("outer",), ())]
    live = [Gateway(f"gw-{number}", "b", 1, 1, (worker,), 0) for number, worker in enumerate(workers)]
    assert LAYERS.lacking(["outer", "inner"], live) == {"outer": ["gw-2"], "inner": ["gw-1", "gw-2"]}
    assert LAYERS.lacking([], live) == LAYERS.lacking(["outer"], live[:2]) == {}


@dataclass(frozen=True)
class Nothing:
    """No parameters."""


class Told(PendingRequest):
    """Remembers its outcome."""

    def __init__(self) -> None:
        super().__init__(time.monotonic() + 3_600)
        self.outcome: Outcome | None = None

    def settled(self, outcome: Outcome) -> None:
        """Keep it."""
        self.outcome = outcome


class Planted:
    """A version that answers 1 for each row, or fails."""

    def __init__(self, error: ModelFault | None = None) -> None:
        self.error = error
        self.runs = 0

    def __repr__(self) -> str:
        return "version"

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle."""
        self.runs += 1
        request.settle(self.error or Answer(Batch(OUTPUTS, batch.rows, (Block(np.ones((batch.rows, 1))),)), 0, batch.rows))


class Counts:
    """Counts nothing."""

    def cached(self, result: str) -> None:
        """As in Counts."""

    def fell_back(self, kind: str, reason: str) -> None:
        """As in Counts."""


def put_around(
    version: Submitter, policy: Policy, *, signature: Signature = SIGNATURE, shared: Shared | None = None
) -> Submitter:
    """The layers around it."""

    async def make() -> Submitter:
        context = LayerContext(DIGEST, signature, Counts(), lambda _window_s: OwnCells(), shared=shared)
        return layered(version, policy, context)

    return asyncio.run(make())


def ask(top: Submitter) -> Any:
    """The answer to one row, or the code of the error."""
    request = Told()
    top.submit(Batch(INPUTS, 1, (Block(np.ones((1, 1))),)), request)
    if isinstance(request.outcome, Answer):
        return float(request.outcome.batch().blocks[0].values[0, 0])
    assert request.outcome is not None
    return request.outcome.code


BOTH = {"outer": {"by": 3.0}, "inner": {"by": 2.0}}


def test_each_layer_stands_where_its_order_puts_it() -> None:
    """Between ours: "inner" changes what the cache keeps, and "outer" every answer, whatever gave it."""
    static = (Fallback("static", value=0.0),)
    policy = Policy(cache=CachePolicy(), breaker=BreakerPolicy(), fallback=static, layers=BOTH)
    version = Planted()
    top = put_around(version, policy)
    assert repr(top) == ("outer -> Fallbacks(static) -> Cache(ttl 60 s) -> inner -> Breaker(50% in 10 s, closed) -> version")
    assert [ask(top), ask(top), version.runs] == [6.0, 6.0, 1]
    assert ask(put_around(Planted(ModelFault("no")), policy)) == 3.0
    assert repr(put_around(version, only_plugins(policy))) == "outer -> inner -> version"


def test_a_layer_that_fails_fails_only_its_own_request() -> None:
    """The version that settles it goes on to the next one."""
    assert ask(put_around(Planted(), Policy(layers={"outer": {"by": 9.0}}))) == "layer-failed"
    assert ask(put_around(Planted(), Policy(layers={"outer": {"by": 8.0}}))) == "layer-failed"
    behind = {"outer": {"by": 3.0}, "inner": {"by": 9.0}}
    assert ask(put_around(Planted(), Policy(layers=behind, fallback=(Fallback("cached"),)))) == "layer-failed"


class Checked:
    """A layer for the suite."""

    name = "checked"
    interface = 1
    order = 50
    parameters = Nothing

    def __init__(self, wrap: Callable[[Submitter], Submitter]) -> None:
        self._wrap = wrap

    def wrap(self, below: Submitter, _parameters: Any, _context: LayerContext) -> Submitter:
        """As in Layer."""
        return self._wrap(below)


class Forgetful(PendingRequest):
    """Stands for another request, which it loses when it fails."""

    def __init__(self, outer: PendingRequest) -> None:
        super().__init__(outer.deadline)
        self.held = outer

    def settled(self, outcome: Outcome) -> None:
        """Change it, and pass it on."""
        self.held.settle(first_column(outcome) if isinstance(outcome, Answer) else outcome)


class ForgetfulLayer:
    """Passes on such requests."""

    def __init__(self, below: Submitter) -> None:
        self._below = below

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self._below.submit(batch, Forgetful(request))


def first_column(answer: Answer) -> Answer:
    """The same answer; fails without a column."""
    answer.batch().column_at(0)
    return answer


def test_the_suite_lets_a_layer_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in two steps passes; one that loses its request does not."""
    monkeypatch.setattr("roadworthy.testing.layers._PATIENCE_S", 0.05)
    two_steps = Checked(lambda below: ChangedAnswers(ChangedAnswers(below, lambda answer: answer), first_column))
    check_a_failure_is_the_outcome(LayerCase(two_steps, {}))
    with pytest.raises(AssertionError, match="a request was not settled"):
        check_a_failure_is_the_outcome(LayerCase(Checked(ForgetfulLayer), {}))


@dataclass
class Only:
    """A layer that does one thing with a request."""

    act: Callable[[PendingRequest], object]

    def submit(self, _batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self.act(request)


def test_a_request_that_a_layer_loses_fails_after_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and not when its deadline moves or it is settled meanwhile."""
    clock = HandClock()
    monkeypatch.setattr("roadworthy.runtime.layers.layer.time", clock)
    alarms: list[Callable[[], None]] = []

    def ring(seconds: float) -> None:
        clock.step(seconds)
        due = alarms.copy()
        alarms.clear()
        for alarm in due:
            alarm()

    async def play() -> None:
        loop = asyncio.get_running_loop()

        def call_later(_seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
            alarms.append(act)
            return asyncio.TimerHandle(0.0, act, (), loop)

        monkeypatch.setattr(loop, "call_later", call_later)
        held: list[PendingRequest] = []
        waiting = [Told() for _ in range(3)]
        for request in waiting:
            Taken(Only(held.append), "l").submit(ROW, request)
        lost, moved, in_time = waiting
        held[2].settle(ModelFault("no", code="model-failed"))
        ring(3_600)
        assert lost.outcome is None
        assert len(alarms) == 2
        moved.deadline += 3_600
        ring(60)
        codes = [None if each.outcome is None else cast("Any", each.outcome).code for each in (lost, moved, in_time)]
        assert codes == ["layer-failed", None, "model-failed"]
        assert len(alarms) == 1

    asyncio.run(play())


def test_only_an_outcome_comes_out_of_a_layer() -> None:
    """A function that forgets to return the answer fails its request."""
    forgets: Any = lambda _answer: None  # noqa: E731 - a wrong function, on purpose
    assert ask(Taken(ChangedAnswers(Fence(Planted(), "l"), forgets), "l")) == "layer-failed"


def test_a_layer_that_fails_too_late_changes_nothing() -> None:
    """Its request is settled, and the layers further out may be answering it in their own way."""

    class TooLate(ForwardedRequest):
        def settled(self, outcome: Outcome) -> None:
            """Pass it on, then fail."""
            self.outer.settle(outcome)
            raise OSError("after all")

    class Layer:
        def __init__(self, below: Submitter) -> None:
            self.below = below

        def submit(self, batch: Batch, request: PendingRequest) -> None:
            """As in Submitter."""
            self.below.submit(batch, TooLate(request))

    class Further(ForwardedRequest):
        def settled(self, outcome: Outcome) -> None:
            """Continue, as fallbacks do."""

    request = Told()
    Taken(Layer(Fence(Planted(), "l")), "l").submit(ROW, Further(request))
    assert (request.outcome, request.done) == (None, False)


class Redis:
    """Answers that all workers share, at once."""

    def __init__(self) -> None:
        self.stored: dict[bytes, Batch] = {}

    def ask(self, key: bytes, rows: int, deadline: float, tell: Callable[[Found | None], None]) -> bool:
        """As in Shared."""
        now = time.monotonic()
        if key in self.stored:
            tell(Found(self.stored[key], now, now + 60))
        return key in self.stored

    def put(self, key: bytes, answer: Batch, size: int, ttl_s: float) -> None:
        """As in Shared."""
        self.stored[key] = answer


def test_shared_answers_are_those_of_the_same_layers(tmp_path: Path) -> None:
    """Of the same parameters, the same plug-in version and the same endpoint's signature; where there are no layers inside the
    cache, of the same version."""
    redis = Redis()

    def answer(layers: dict[str, Any], signature: Signature = SIGNATURE) -> tuple[float, int]:
        version = Planted()
        policy = Policy(cache=CachePolicy(), layers=layers)
        found = ask(put_around(version, policy, signature=signature, shared=redis))
        return found, version.runs

    assert [answer({"inner": {"by": 2.0}}) for _ in range(2)] == [(3.0, 1), (3.0, 0)]
    assert answer({"inner": {"output": "y", "by": 2}}) == (3.0, 0)
    assert [answer({"inner": {"by": 5.0}}) for _ in range(2)] == [(6.0, 1), (6.0, 0)]
    assert [answer({}) for _ in range(2)] == [(1.0, 1), (1.0, 0)]
    assert answer({"outer": {"by": 3.0}}) == (4.0, 0)
    assert answer({"outer": {"by": 1.0}, "inner": {"by": 2.0}}) == (4.0, 0)
    other = Signature((Field("z", DType.FLOAT64),), SIGNATURE.outputs, Container.ARRAY)
    assert answer({"inner": {"by": 2.0}}, other) == (3.0, 1)
    metadata = tmp_path / "planted_layers-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    plugins.allow(())
    plugins.allow([NAME])
    assert answer({"inner": {"by": 2.0}}) == (3.0, 1)


@pytest.mark.parametrize(
    ("error", "code"), [(Unavailable("no", code="layer-quota"), "layer-quota"), (OSError("no"), "layer-failed")]
)
def test_what_a_layer_raises_is_the_outcome_of_its_request(error: Exception, code: str) -> None:
    """So the layers around it see an outcome: the cache lets other requests for the same rows go on."""
    policy = Policy(cache=CachePolicy(), layers={"inner": {"by": 8.0}})
    top = put_around(Planted(), policy)
    raising(error, None)
    assert [ask(top), ask(top)] == [code, 1.0]


def raising(*raised: Exception | None) -> None:
    """What the layer with the parameter 8 raises from now on, request by request; None: it passes the request on."""
    cast("Any", sys.modules["planted_layers"]).Raises.raised[:] = raised


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ({"nowhere": {}}, "no such layer is loaded here: nowhere"),
        ({"outer": {"by": 1.0, "later": 1}}, r"layers\.outer\.later: unknown key"),
        ({"outer": {"by": 1.0, "output": "z"}}, r"layers\.outer: no output z"),
        ({"outer": {"by": 10.0}}, "layer outer failed: OSError: no such library"),
    ],
)
def test_a_layer_is_never_left_out(layers: dict[str, Any], reason: str) -> None:
    """What cannot be put around the version is refused, with the reason."""
    with pytest.raises(LayerRefused, match=reason):
        put_around(Planted(), Policy(layers=layers))


class Versions:
    """A manager with one version, which is READY."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def version(self, _digest: str) -> Version:
        """It."""
        return self._version

    def states(self) -> tuple[VersionState, ...]:
        """READY."""
        return (VersionState(DIGEST, READY),)

    def want(self, *_: Any, **__: Any) -> None:
        """It is there."""


class Edges:
    """The names that are served and those that wait."""

    def __init__(self) -> None:
        self.served: set[str] = set()
        self.waiting: set[str] = set()

    def serve(self, _keys: Any, served: Any, waiting: Any) -> None:
        """As in Edge."""
        self.served, self.waiting = set(served), set(waiting)

    def head(self, _label: str, _version: Version) -> bytes:
        """As in Edge."""
        return b""


class Model:
    """Answers 1."""

    concurrent = True

    def run(self, batch: Batch) -> Batch:
        """As in Runner."""
        return Batch(OUTPUTS, batch.rows, (Block(np.ones((batch.rows, 1))),))

    def close(self) -> None:
        """As in Runner."""


@pytest.fixture
def metrics(tmp_path: Path) -> WorkerMetrics:
    """Of a worker."""
    create_slab(tmp_path / "slab", 2)
    return open_worker_metrics(tmp_path / "slab", 0)


def test_a_worker_without_the_layer_holds_the_endpoint_back(metrics: WorkerMetrics) -> None:
    """It serves the others, and an endpoint that it served before as before. A starting worker reports a failure,
    not that it is loading, as with a version that it cannot load."""

    def snapshot(revision: int, **layers: Any) -> Snapshot:
        entries = [("plain", {}), ("asks", layers)]
        split = (VariantEntry(DIGEST, 10_000),)
        endpoints = [EndpointEntry(name, revision, split, SIGNATURE.to_document(), Policy(layers=each)) for name, each in entries]
        return Snapshot("e", revision, (PackageEntry(DIGEST, "m", 1, 1),), tuple(endpoints))

    def serving(edge: Edges) -> ServingState:
        state = ServingState(Identity(0, 1, "b"), metrics, lambda: None)
        batcher = Batcher(Model(), asyncio.get_running_loop())
        version = Version(DIGEST, "planted", SIGNATURE, Placed(INLINE, "planted"), batcher)
        state.attach(cast("Manager", Versions(version)), cast("Edge", edge))
        return state

    async def play() -> None:
        edge = Edges()
        state = serving(edge)
        state.offer(snapshot(1, outer={"by": 1.0}))
        assert edge.served == {"plain", "asks"}
        assert state.report().layers == ("inner", "outer")
        before = state.endpoints["asks"]
        state.offer(snapshot(2, nowhere={}))
        assert state.endpoints["asks"] is before
        report = state.report()
        assert (report.revision, report.offered, report.refused) == (2, 2, ("asks",))
        assert state.endpoints["plain"].entry.generation == 2
        assert "nowhere" in state.refused()["asks"]
        state.offer(snapshot(3))
        assert (state.refused(), state.report().revision, state.report().refused) == ({}, 3, ())

        plugins.allow(())
        edge = Edges()
        state = serving(edge)
        state.offer(snapshot(1, outer={"by": 1.0}))
        assert (edge.served, edge.waiting) == ({"plain"}, {"asks"})
        assert (state.loading, state.settled, state.readiness().reason) == (False, False, "failed")
        assert (state.report().layers, state.report().refused) == ((), ("asks",))

        edge = Edges()
        state = serving(edge)
        plain = snapshot(1, outer={"by": 1.0})
        state.offer(msgspec.structs.replace(plain, endpoints=plain.endpoints[:1]))
        state.offer(snapshot(2, outer={"by": 1.0}))
        assert (state.report().revision, state.report().refused, state.readiness().ready) == (2, ("asks",), True)

    asyncio.run(play())


def test_a_shadowed_version_has_the_same_layers(metrics: WorkerMetrics) -> None:
    """Only those of plug-ins: its answers are compared with those that callers got."""
    canary = "sha256:" + "b" * 64
    static = (Fallback("static", value=0.0),)
    policy = Policy(cache=CachePolicy(), breaker=BreakerPolicy(), fallback=static, layers=BOTH)
    rollout = RolloutEntry("r", DIGEST, canary, shadow=10_000)
    split = (VariantEntry(DIGEST, 10_000),)
    entry = EndpointEntry("e", 1, split, SIGNATURE.to_document(), policy, rollout)
    packages = {digest: PackageEntry(digest, "m", number, 1) for number, digest in enumerate((DIGEST, canary))}

    async def play() -> None:
        loop = asyncio.get_running_loop()
        placed = Placed(INLINE, "planted")
        versions = {each: Version(each, "planted", SIGNATURE, placed, Batcher(Model(), loop)) for each in packages}
        endpoint = bind(entry, packages, versions.get, Admission("e"), metrics)
        assert endpoint.assignment is not None
        assert endpoint.assignment.mirror is not None
        top = cast("Any", endpoint.assignment.mirror._submit_below).__self__
        assert repr(top).startswith("outer -> inner -> ")
        request = Told()
        top.submit(Batch(INPUTS, 1, (Block(np.ones((1, 1))),)), request)
        await soon(lambda: request.outcome is not None, "the version has answered")
        assert isinstance(request.outcome, Answer)
        assert float(request.outcome.batch().blocks[0].values[0, 0]) == 6.0
        broken = msgspec.structs.replace(entry, policy=Policy(layers={"nowhere": {}}))
        with pytest.raises(Unbindable, match="nowhere") as refused:
            bind(broken, packages, versions.get, Admission("e"), metrics)
        assert refused.value.hopeless

    asyncio.run(play())


@pytest.mark.parametrize(
    ("raised", "pairs"),
    [
        ((None, None), (PairCount(1, "errors", 1, 0, 0),)),
        ((None, Unavailable("no", code="layer-quota")), ()),
        ((Unavailable("no", code="layer-quota"), None), ()),
        ((None, OSError("no")), (PairCount(1, "errors", 1, 1, 0),)),
        ((OSError("no"), None), (PairCount(1, "errors", 1, 0, 1),)),
    ],
)
def test_what_a_layer_raises_is_judged_alike_on_both_sides(
    metrics: WorkerMetrics, tmp_path: Path, raised: tuple[Exception | None, ...], pairs: tuple[PairCount, ...]
) -> None:
    """A refusal is evidence about neither version, and a failure about the version whose request met it."""
    canary = "sha256:" + "b" * 64
    policy = Policy(layers={"inner": {"by": 8.0}})
    rollout = RolloutEntry("r", DIGEST, canary, shadow=10_000, signals=("errors",))
    entry = EndpointEntry("e", 1, (VariantEntry(DIGEST, 10_000),), SIGNATURE.to_document(), policy, rollout)
    packages = {digest: PackageEntry(digest, "m", number, 1) for number, digest in enumerate((DIGEST, canary))}

    async def play() -> None:
        loop, placed = asyncio.get_running_loop(), Placed(INLINE, "planted")
        versions = {each: Version(each, "planted", SIGNATURE, placed, Batcher(Model(), loop)) for each in packages}
        assignment = bind(entry, packages, versions.get, Admission("e"), metrics).assignment
        assert assignment is not None
        raising(*raised)
        batch, request = Batch(INPUTS, 1, (Block(np.ones((1, 1))),)), Told()
        variant, assigned = assignment.assign(request, {}, "p", batch)
        variant.submit(batch, assigned)
        await soon(lambda: counted().excluded or counted().pairs, "the pair was counted, or left out")
        assert request.outcome is not None
        assert counted().pairs == pairs

    def counted() -> RolloutCounts:
        return read_totals(SlabReader(tmp_path / "slab")).evidence.counts("r")

    asyncio.run(play())


class Failing(Model):
    """Fails."""

    def run(self, batch: Batch) -> Batch:
        """As in Runner."""
        raise ModelFault("no", code="model-failed")


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, 1.0),
        (BOTH, 6.0),
        ({"outer": {"by": 3.0}}, 4.0),
        ({"inner": {"by": 2.0}}, 3.0),
        ({"inner": {"by": 9.0}}, "model-failed"),  # no step has an answer, so the first error stands
    ],
)
def test_a_fallback_version_has_the_layers_around_versions(
    metrics: WorkerMetrics, layers: dict[str, Any], expected: float | str
) -> None:
    """Those that are further in than fallbacks; the others see its answers anyway. When one fails, the version is free again."""
    other = "sha256:" + "b" * 64
    policy = Policy(cache=CachePolicy(), fallback=(Fallback("version", digest=other),), layers=layers)
    entry = EndpointEntry("e", 1, (VariantEntry(DIGEST, 10_000),), SIGNATURE.to_document(), policy)
    packages = {digest: PackageEntry(digest, "m", number, 1) for number, digest in enumerate((DIGEST, other))}

    async def play() -> None:
        loop = asyncio.get_running_loop()
        placed = Placed(INLINE, "planted")
        models = {DIGEST: Failing(), other: Model()}
        versions = {each: Version(each, "m", SIGNATURE, placed, Batcher(models[each], loop)) for each in models}
        endpoint = bind(entry, packages, versions.get, Admission("e"), metrics)
        request = Told()
        endpoint.split.variants[0].submit(ROW, request)
        await soon(lambda: request.outcome is not None, "the fallback has answered")
        if isinstance(request.outcome, Answer):
            assert float(request.outcome.batch().blocks[0].values[0, 0]) == expected
            assert cast("Any", request.outcome.by).version is versions[other]
        else:
            assert getattr(request.outcome, "code", None) == expected
        assert versions[other].leases.held == 0

    asyncio.run(play())


def test_without_layers_a_request_goes_to_the_version_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no plug-in is looked up."""
    refuse: Callable[..., Any] = pytest.fail
    monkeypatch.setattr("roadworthy.runtime.layers.stack.plugins", refuse)
    version = Planted()
    assert put_around(version, Policy()) is version
