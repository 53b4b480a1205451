"""`rw.serve_in_process`: opens an endpoint inside the application, for its own threads and event loops to call.

with rw.serve_in_process("credit", package="credit.rw") as credit:
    answer = credit.predict({"age": 31, "income": 42000.0})
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from roadworthy.client.prediction import Prediction
from roadworthy.client.streaming import index_of
from roadworthy.codecs.codec import HeaderList
from roadworthy.embedded.core import Core
from roadworthy.embedded.edge import EmbeddedEdge, EmbeddedRequest, PartQueue, WholeAnswer, endpoint_closed
from roadworthy.embedded.sources import HomeSource, PackageSource, Source, read_policy
from roadworthy.foundation.errors import Conflict, InvalidRequest, RoadworthyError
from roadworthy.foundation.plugins import allow
from roadworthy.foundation.references import VersionReference, check_name
from roadworthy.loading import unpacked
from roadworthy.package.archive import SUFFIX
from roadworthy.runtime.pending import Answer, Outcome
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import encode_rows
from roadworthy.settings import load_settings

OFF = {
    "records": "predictions are not recorded",
    "metrics": "nothing is counted for Prometheus or the control plane",
    "rollouts": "while its endpoint is in a rollout, the stable version alone answers, and nothing counts as evidence",
    "shared-cache": "a cache holds the answers of this process only",
}
"""What an embedded endpoint does not do while no agent takes part."""
CLOSE_GRACE_S = 10.0
_log = logging.getLogger("roadworthy.embedded")


@dataclass(frozen=True, slots=True)
class EmbeddedVersion:
    """A version of an embedded endpoint.

    Attributes:
        digest: of its package. state: "READY", "LOADING" or "FAILED".
        runtime: the name of the runtime that runs it. placement: where it executes, and why. None before it is READY.
        code, reason: of a failure. health: the result of failed golden probes; None if they succeed.
    """

    digest: str
    state: str
    runtime: str | None
    placement: str | None
    code: str | None
    reason: str | None
    health: str | None


@dataclass(frozen=True, slots=True)
class EmbeddedStatus:
    """The state of an embedded endpoint.

    Attributes:
        endpoint: its name. pid: the process whose core serves it.
        ready: whether every version is READY.
        versions: those that it may use. calls: how many are in progress.
        off: what does not work here, by name, with what that means; "agent" says why no agent takes part. Empty while the
            endpoint takes part in the gateway of the home folder, except for a cache, which is never shared with others.
    """

    endpoint: str
    pid: int
    ready: bool
    versions: tuple[EmbeddedVersion, ...]
    calls: int
    off: Mapping[str, str]


@dataclass(slots=True)
class _Shared:
    """An open endpoint of this process, with the number of handles that were given out."""

    name: str
    arguments: tuple[object, ...]
    source: Source
    core: Core
    users: int = 1


class _Process:
    """What the embedded endpoints of this process share."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.core: Core | None = None
        self.open: dict[str, _Shared] = {}

    def running(self) -> Core:
        """The core; started if it does not run. Hold the lock."""
        if self.core is None:
            settings = load_settings()
            allow(settings.general.plugins)
            core = Core(settings)
            core.start()
            self.core = core
        return self.core

    def stop_if_unused(self) -> None:
        """End the core after its last endpoint. Hold the lock."""
        core = self.core
        if core is not None and all(each.core is not core for each in self.open.values()):
            self.core = None
            core.stop()

    def forked(self) -> None:
        """Begin anew in a fork: threads and locks of its parent do not exist here."""
        self.lock = threading.RLock()
        if self.core is not None:
            self.core.forget()
            self.core = None

    def ended(self) -> None:
        """Close everything before the process exits."""
        with self.lock:
            self.open.clear()
            self.stop_if_unused()


_process = _Process()
os.register_at_fork(after_in_child=_process.forked)
atexit.register(_process.ended)


class EmbeddedEndpoint:
    """An endpoint inside this process. Any thread and any event loop may call it; close it, or use it as a context manager.

    A process that forks may use it in the parent and in the child. The child loads the packages anew with its first call.

    Attributes:
        name: of the endpoint.
    """

    def __init__(self, shared: _Shared) -> None:
        self.name = shared.name
        self._shared = shared
        self._closed = False

    def __repr__(self) -> str:
        return f"EmbeddedEndpoint({self.name!r}{', closed' if self._closed else ''})"

    @property
    def closed(self) -> bool:
        """Whether this endpoint was closed here."""
        return self._closed

    def predict(self, data: Any, *, timeout_s: float | None = None) -> Prediction:
        """Answer rows.

        Args:
            data: rows as a pandas or polars DataFrame, a numpy array, a list of dicts or of rows, or one dict.
            timeout_s: timeout of this call, in seconds; it can only shorten the endpoint's.

        Raises:
            InvalidInput: the rows do not fit the signature; facts["fields"] names the fields.
            Unavailable: "overloaded", "endpoint-closed" and others. DeadlineExceeded, ModelFault: see each class.
        """
        call, result = self._ask(data, timeout_s)
        try:
            return self._prediction(call, result.result(), data)
        except BaseException:
            self._give_up(call)
            raise

    async def predict_async(self, data: Any, *, timeout_s: float | None = None) -> Prediction:
        """The same as `predict`, to be awaited on any event loop. Cancelling it gives the call up."""
        if self._shared.core.pid != os.getpid():
            await asyncio.to_thread(self.core)
        call, result = self._ask(data, timeout_s)
        try:
            return self._prediction(call, await asyncio.wrap_future(result), data)
        except BaseException:
            self._give_up(call)
            raise

    def stream(self, data: Any, *, timeout_s: float | None = None) -> Iterator[list[Any]]:
        """Answer rows part by part. The model is asked with the first part; closing the iterator gives the rest up.

        Each part is a list with one value per row, as in `Prediction.predictions`. A model that answers at once gives one part.
        Raises as `predict`, also between two parts.
        """
        return self._parts(*self._read(data, timeout_s), data, timeout_s)

    async def stream_async(self, data: Any, *, timeout_s: float | None = None) -> AsyncIterator[list[Any]]:
        """The same as `stream`, to be iterated on any event loop."""
        loop = asyncio.get_running_loop()
        if self._shared.core.pid != os.getpid():
            await asyncio.to_thread(self.core)
        core, edge, batch = self._read(data, timeout_s)
        arrived, call = asyncio.Queue[Batch | RoadworthyError | None](), EmbeddedRequest(edge, timeout_s)
        call.sink = parts = PartQueue(call, lambda part: loop.call_soon_threadsafe(arrived.put_nowait, part))
        self._submit(core, call, batch, data)
        try:
            while self._is_of_here(call) and (part := await arrived.get()) is not None:
                yield self._part(parts, part)
        finally:
            self._give_up(call)

    def status(self) -> EmbeddedStatus:
        """The state of this endpoint in this process, and what is off because no agent takes part."""
        core = self.core()
        states = core.call(core.versions, self.name).result()
        versions = tuple(
            EmbeddedVersion(each.digest, each.state, each.runtime, each.placement, each.code, each.reason, each.health)
            for each in states
        )
        ready = all(each.state == "READY" for each in states)
        off = _off(core, self.name)
        return EmbeddedStatus(self.name, core.pid, ready, versions, len(core.calls(self.name)), off)

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Free memory, threads and runner processes, unless the same endpoint was opened again and is still open.

        New calls are refused. Those in progress end first, for up to `grace_s` seconds; then, or at once if the endpoint answers
        in parts, they fail with the code "endpoint-closed". A second `close` does nothing.
        """
        with _process.lock:
            if self._closed:
                return
            self._closed = True
            shared = self._shared
            shared.users -= 1
            if shared.users:
                return
            _process.open.pop(self.name, None)
            if shared.core.pid == os.getpid() and shared.core is _process.core:
                asyncio.run_coroutine_threadsafe(shared.core.close(self.name, grace_s), shared.core.loop).result()
                _process.stop_if_unused()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def core(self) -> Core:
        """The core that serves this endpoint in this process; for the mounts.

        Raises:
            Unavailable: "endpoint-closed". RoadworthyError: after a fork, a package cannot be loaded any more.
        """
        shared = self._shared
        if self._closed:
            raise endpoint_closed(self.name)
        if shared.core.pid == os.getpid():
            return shared.core
        with _process.lock:
            if shared.core.pid != os.getpid():
                core = _process.running()
                _open_in(core, self.name, shared.source)
                shared.core = core
            return shared.core

    def _ask(self, data: Any, timeout_s: float | None) -> tuple[EmbeddedRequest, Future[Answer]]:
        core, edge, batch = self._read(data, timeout_s)
        call, result = EmbeddedRequest(edge, timeout_s), Future[Answer]()

        def settle(outcome: Outcome) -> None:
            if not result.set_running_or_notify_cancel():
                return
            if isinstance(outcome, Answer):
                result.set_result(outcome)
            else:
                result.set_exception(outcome)

        call.sink = WholeAnswer(call, settle, edge.most_rows)
        self._submit(core, call, batch, data)
        return call, result

    def _read(self, data: Any, timeout_s: float | None) -> tuple[Core, EmbeddedEdge, Batch]:
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidRequest(f"timeout_s must be positive, got {timeout_s!r:.40}", code="invalid-timeout", hint="in seconds")
        core = self.core()
        edge = core.edges.get(self.name)
        if edge is None:
            raise endpoint_closed(self.name)
        return core, edge, edge.read(data)

    def _submit(self, core: Core, call: EmbeddedRequest, batch: Batch, data: Any) -> None:
        def ask() -> None:
            if self._closed:
                call.settle(endpoint_closed(self.name))
            else:
                core.edges.get(self.name, call.edge).ask(call, batch, data)

        try:
            core.loop.call_soon_threadsafe(ask)
        except RuntimeError:  # the core has ended meanwhile
            raise endpoint_closed(self.name) from None

    def _parts(self, core: Core, edge: EmbeddedEdge, batch: Batch, data: Any, timeout_s: float | None) -> Iterator[list[Any]]:
        arrived = SimpleQueue[Batch | RoadworthyError | None]()
        call = EmbeddedRequest(edge, timeout_s)
        call.sink = parts = PartQueue(call, arrived.put)
        self._submit(core, call, batch, data)
        try:
            while self._is_of_here(call) and (part := arrived.get()) is not None:
                yield self._part(parts, part)
        finally:
            self._give_up(call)

    def _is_of_here(self, call: EmbeddedRequest) -> bool:
        """True; in a fork the parts of a call of the parent never come."""
        if call.edge.pid != os.getpid():
            raise endpoint_closed(self.name)
        return True

    def _part(self, parts: PartQueue, part: Batch | RoadworthyError) -> list[Any]:
        if isinstance(part, RoadworthyError):
            raise part
        self._on_loop(parts.taken)
        return encode_rows(part)

    def _give_up(self, call: EmbeddedRequest) -> None:
        if not call.over and call.edge.pid == os.getpid():
            self._on_loop(call.drop)

    def _on_loop(self, function: Callable[[], None]) -> None:
        try:
            self._shared.core.loop.call_soon_threadsafe(function)
        except RuntimeError:  # the core has ended, and all calls with it
            return

    def _prediction(self, call: EmbeddedRequest, answer: Answer, data: Any) -> Prediction:
        variant = call.by or call.variant
        if variant is None:
            raise AssertionError("an answer came without a version")
        notes: HeaderList = list(answer.notes)
        said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in notes}
        return Prediction(
            encode_rows(answer.batch()),
            call.prediction_id,
            f"{variant.model}:{variant.number}",
            variant.version.digest,
            variant.version.runtime,
            call.id,
            said.get("roadworthy-fallback", ""),
            said.get("cache-status", ""),
            index=index_of(data),
        )


def serve_in_process(
    endpoint: str,
    *,
    package: str | Path | None = None,
    allow_code: str | Collection[str] | None = None,
    policy: Mapping[str, Any] | None = None,
) -> EmbeddedEndpoint:
    """Open an endpoint in this process, without a server; returns when its versions are loaded and proved.

    Opened again with the same arguments, an endpoint is shared: it is loaded once, and freed with the last `close`.

    Args:
        endpoint: its name. Without `package`, the endpoint of that name in this machine's home folder is served, as its gateway
            serves it: its split, signature and policy, and their changes within a second or so.
        package: a .rw file, an unpacked package folder, or a registered version like "credit:2", as the endpoint's only version.
        allow_code: the digest or digests of packages whose code may run; other packages with code are refused. Without
            `package`, the permission given with `roadworthy push` holds.
        policy: settings of the endpoint (docs/policies.md), such as {"cache": {"ttl_s": 30}}; only with `package`.

    Raises:
        PackageInvalid: damaged, or not a package. PackageRefused: not allowed or not runnable here. ProofFailed: other answers.
        NotFound: no such endpoint or version. ClientError: the control plane does not answer. InvalidRequest: "invalid-policy",
            "unsafe-name". Conflict: "endpoint-open": it is open in this process with other arguments.
    """
    check_name(endpoint)
    if package is None and (policy is not None or allow_code is not None):
        raise InvalidRequest(
            "policy and allow_code go with package=; an endpoint of the home folder has its own",
            code="invalid-policy",
            hint="pass package=, or change the endpoint with `roadworthy deploy`",
        )
    if isinstance(allow_code, bool):
        raise InvalidRequest("allow_code names the digests of packages, not yes or no", hint='pass allow_code="sha256:…"')
    allowed = (allow_code,) if isinstance(allow_code, str) else tuple(sorted(allow_code or ()))
    where = None if package is None else str(package)
    arguments = (where, allowed, repr(policy))
    with _process.lock:
        shared = _process.open.get(endpoint)
        if shared is None:
            shared = _opened(endpoint, arguments, _source(endpoint, package, allowed, policy))
        elif shared.arguments != arguments:
            raise Conflict(
                f"the endpoint {endpoint} is open in this process with other arguments",
                code="endpoint-open",
                hint="use the object that serve_in_process returned, close it first, or choose another name",
            )
        else:
            shared.users += 1
        return EmbeddedEndpoint(shared)


def _source(endpoint: str, package: str | Path | None, allowed: Collection[str], policy: Mapping[str, Any] | None) -> Source:
    settings = load_settings()
    allow(settings.general.plugins)
    if package is None:
        return HomeSource(endpoint, settings.general.home_folder() / "gateway")
    path = Path(package)
    registered = not (isinstance(package, Path) or path.exists() or path.suffix == SUFFIX)
    number = VersionReference.parse(str(package)).version if registered else 1
    return PackageSource(endpoint, unpacked(package, settings), number, allowed, read_policy(policy))


def _opened(name: str, arguments: tuple[object, ...], source: Source) -> _Shared:
    core = _process.running()
    try:
        _open_in(core, name, source)
    except BaseException:
        _process.stop_if_unused()
        raise
    off = _off(core, name)
    if off:
        _log.info("the endpoint %s is open in this process; off: %s; %s", name, ", ".join(OFF), off["agent"])
    else:
        _log.info("the endpoint %s is open in this process, as a part of the gateway of its home folder", name)
    shared = _process.open[name] = _Shared(name, arguments, source, core)
    return shared


def _off(core: Core, name: str) -> Mapping[str, str]:
    reason, edge = core.call(core.apart, name).result(), core.edges.get(name)
    if reason is not None:
        return {"agent": reason, **OFF}
    cached = edge is not None and edge.endpoint.entry.policy.cache is not None
    return {"shared-cache": OFF["shared-cache"]} if cached else {}


def _open_in(core: Core, name: str, source: Source) -> None:
    core.call(core.open, name, source).result().result()
