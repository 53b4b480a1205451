"""Fallbacks: answer a request in another way when its version cannot. The outermost layer, where a policy lists fallbacks.

The steps are tried in the policy's order, and the reply names the one that answered. A request never causes more than one further
run of a model: after that only rules and existing answers are tried; if none answers, the first error stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError, Unavailable
from roadworthy.runtime.layers.cache import Cache
from roadworthy.runtime.pending import Answer, ForwardedRequest, Outcome, PendingRequest, Submitter
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.rows import decode_rows

VERSION, RULE, CACHED, STATIC = "version", "rule", "cached", "static"
NONE = "none"
"""The kind that is counted when no step had an answer."""
LEAST_RULE_S = 0.1
"""A rule may take this long even when the version has used up the request's time."""
_LEAST_RUN_S = 0.001
_CALLERS_DOING = frozenset({"request-too-large", "stopping"})

Count = Callable[[str, str], None]
"""Called with the kind that answered, or NONE, and the code of the error it answered for."""


class Step(Protocol):
    """One way to answer instead: a Submitter that may settle with an error, after which the next step is tried."""

    @property
    def kind(self) -> str:
        """VERSION, RULE, CACHED or STATIC."""
        ...

    @property
    def detail(self) -> str:
        """What the reply's header adds to the kind, such as `version="flights:2"`, or ""."""
        ...

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        ...


class Fallbacks:
    """The fallback layer. Event loop only."""

    def __init__(self, below: Submitter, steps: Sequence[Step], count: Count) -> None:
        self._below = below
        self._steps = tuple(steps)
        self._count = count

    def __repr__(self) -> str:
        return f"Fallbacks({', '.join(step.detail or step.kind for step in self._steps)}) -> {self._below!r}"

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self._below.submit(batch, _First(request, batch, self))

    def go_on(self, walk: _Walk) -> None:
        """Try the next steps, because the version or a step could not answer."""
        outer = walk.outer
        while not outer.done and walk.number < len(self._steps):
            step = self._steps[walk.number]
            walk.number += 1
            now = time.monotonic()
            deadline = outer.deadline
            if step.kind == VERSION and (walk.ran or deadline <= now + _LEAST_RUN_S):
                continue
            if step.kind == RULE:
                deadline = max(deadline, now + LEAST_RULE_S)
            attempt = _Attempt(self, walk, step, deadline)
            try:
                step.submit(walk.batch, attempt)
            except Exception:  # noqa: BLE001 - the layer below is settling other requests, which must not be disturbed
                if not attempt.done:
                    attempt.done = True
                    continue
            return  # the attempt will continue the walk, or has done so already
        if not outer.done:
            self._count(NONE, walk.error.code)
            outer.settle(walk.error)

    def answered(self, walk: _Walk, step: Step, answer: Answer) -> None:
        """Settle the request with a step's answer."""
        self._count(step.kind, walk.error.code)
        parts = [step.kind, *([step.detail] if step.detail else []), f'reason="{walk.error.code}"']
        header = (b"roadworthy-fallback", "; ".join(parts).encode())
        walk.outer.settle(answer.noted((header,), source=step.kind, instead_of=walk.error))


class _First(ForwardedRequest):
    """The request that the version gets."""

    __slots__ = ("_batch", "_owner")

    def __init__(self, outer: PendingRequest, batch: Batch, owner: Fallbacks) -> None:
        super().__init__(outer)
        self._batch = batch
        self._owner = owner

    def settled(self, outcome: Outcome) -> None:
        """Pass an answer on; after an error begin the walk."""
        if isinstance(outcome, Answer) or not _is_ours(outcome):
            self.outer.settle(outcome)
        else:
            self._owner.go_on(_Walk(self.outer, self._batch, outcome))


class _Walk:
    """One request on its way along the steps.

    Attributes:
        error: of the version. number: of the next step. ran: whether another version has begun with it.
    """

    __slots__ = ("batch", "error", "number", "outer", "ran")

    def __init__(self, outer: PendingRequest, batch: Batch, error: RoadworthyError) -> None:
        self.outer = outer
        self.batch = batch
        self.error = error
        self.number = 0
        self.ran = False


class _Attempt(PendingRequest):
    """The request that a step gets. It is settled in any case, so that a step never holds anything forever."""

    __slots__ = ("_owner", "_step", "_walk")

    def __init__(self, owner: Fallbacks, walk: _Walk, step: Step, deadline: float) -> None:
        self._owner = owner
        self._walk = walk
        self._step = step
        self.deadline = deadline
        self.caller = walk.outer.caller
        self.done = False

    @property
    def running(self) -> bool:
        """As in PendingRequest."""
        return self._walk.ran

    @running.setter
    def running(self, value: bool) -> None:
        self._walk.ran = self._walk.ran or (value and self._step.kind == VERSION)
        self._walk.outer.running = True

    def settled(self, outcome: Outcome) -> None:
        """Take the answer, or continue the walk."""
        if isinstance(outcome, Answer):
            self._owner.answered(self._walk, self._step, outcome)
        else:
            self._owner.go_on(self._walk)


class LastGood:
    """The step "cached": the last good answer to an equal request of the same caller."""

    kind = CACHED
    detail = ""

    def __init__(self, cache: Cache, max_age_s: float) -> None:
        self._cache = cache
        self._max_age_s = max_age_s

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle at once."""
        kept = self._cache.last_good(batch, request.caller, self._max_age_s)
        if kept is None:
            request.settle(Unavailable("there is no earlier answer to this request"))
        else:
            age = (b"age", b"%d" % (time.monotonic() - kept.at))
            request.settle(kept.answer(CACHED).noted((age,)))


class Static:
    """The step "static": one prediction for every row.

    Args:
        outputs: of the endpoint's signature.
        value: as in JSON: a dict by output, a list in their order, or the bare value of a single output.

    Raises:
        InvalidInput: the value does not fit the outputs.
    """

    kind = STATIC
    detail = ""

    def __init__(self, outputs: Layout, value: object) -> None:
        self._row = decode_rows(outputs, [value])[0]

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Settle at once."""
        answer = self._row if batch.rows == 1 else self._row.take([0] * batch.rows)
        request.settle(Answer(answer, 0, batch.rows, STATIC))


class OtherSubmitter:
    """The steps "version" and "rule", around the submitter that runs them."""

    def __init__(self, kind: str, name: str, below: Submitter) -> None:
        self.kind = kind
        self.detail = f'{kind}="{name}"'
        self._below = below

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        self._below.submit(batch, request)


def _is_ours(error: RoadworthyError) -> bool:
    """Whether the version or Roadworthy, not the caller, is the reason for the error."""
    if isinstance(error, ModelFault | DeadlineExceeded):
        return True
    return isinstance(error, Unavailable) and error.code not in _CALLERS_DOING
