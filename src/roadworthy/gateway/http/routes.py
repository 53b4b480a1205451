"""Every route of the gateway: handlers by raw path and method. The table is rebuilt when the served endpoints change.

Paths are compared as undecoded bytes: a path that is not literally in the table does not exist. Only the colon of `:predict` may
be sent as %3A. All routes need a key, except the probes and the static pages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httptools
import msgspec

from roadworthy.codecs.codec import Chooser
from roadworthy.codecs.open_inference import OpenInference
from roadworthy.codecs.openapi import below
from roadworthy.codecs.protocol import GatewayState, Page, WireProtocol, bind_protocols, guarded, pages_of, paths_of, protocols
from roadworthy.foundation.errors import InvalidRequest, NotFound, RoadworthyError
from roadworthy.gateway.http import describe
from roadworthy.gateway.http.documents import Documents, read_small
from roadworthy.gateway.http.head_cache import HeadCache
from roadworthy.gateway.http.health import health_document, probe_routes
from roadworthy.gateway.http.messages import Handler, Receive, Reply, Request, endpoint_not_ready, not_ready
from roadworthy.gateway.http.pages import page_routes
from roadworthy.gateway.http.predict import Offload, Predict
from roadworthy.gateway.http.problems import ErrorKeys
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.gateway.http.wire import lines
from roadworthy.runtime.manager import Version
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.readiness import ProcessHealth, Readiness
from roadworthy.serving.pipeline import Instruments
from roadworthy.serving.variant import Variant
from roadworthy.version import __version__

_ANY = "{endpoint}"
Table = dict[bytes, Mapping[str, Handler]]
_encode = msgspec.json.Encoder().encode


class Routing:
    """Builds the table of routes, and the error for a path outside of it.

    Args:
        instruments, offload, scheduler: passed to every prediction.
        readiness: for the probes.
        documents: makes documents about endpoints.
        default: the endpoint that answers on paths without a name; None: the only one, and none of several.

    Attributes:
        table: routes that the application answers.
        predictions: by raw path; connections answer these themselves. head_cache: parsed heads of predictions.
        health: of this process, for /healthz; None until the worker has set it.
    """

    def __init__(
        self,
        instruments: Instruments,
        offload: Offload,
        scheduler: StepScheduler,
        readiness: Callable[[], Readiness],
        documents: Documents,
        default: str | None = None,
    ) -> None:
        self._instruments = instruments
        self._offload = offload
        self._scheduler = scheduler
        self._readiness = readiness
        self._documents = documents
        self._default = default
        self._open = {**probe_routes(readiness), **page_routes()}
        self._keys: Keys | None = None
        self.table: Table = dict(self._open)
        self.predictions: dict[bytes, Predict] = {}
        self.head_cache = HeadCache()
        self.health: ProcessHealth | None = None
        self._served: Mapping[str, Endpoint] = {}
        self._waiting: Mapping[str, Admission] = {}
        self._bound: dict[str, tuple[Endpoint, dict[str, Chooser]]] = {}
        forms = [(protocol, paths_of(protocol, _ANY, None, only=True)) for protocol in protocols().values()]
        self._forms = [(protocol, paths) for protocol, paths in forms if paths]

    def find(self, url: bytes) -> Predict | None:
        """The prediction that answers a POST to this raw target; None for other targets."""
        found = self.predictions.get(url)
        if found is None and not url.startswith(b"/v"):
            with contextlib.suppress(httptools.HttpParserInvalidURLError):
                found = self.predictions.get(httptools.parse_url(url).path)
        elif found is None and b"?" in url:
            found = self.predictions.get(url.partition(b"?")[0])
        return found

    @staticmethod
    def head(label: str, version: Version) -> bytes:
        """The header lines that name the version in its replies."""
        return lines(
            [
                (b"roadworthy-version", label.encode()),
                (b"roadworthy-digest", version.digest.encode()),
                (b"roadworthy-runtime", version.runtime.encode()),
            ]
        )

    def serve(self, keys: Keys, served: Mapping[str, Endpoint], waiting: Mapping[str, Admission]) -> None:
        """Build a new table of `served` endpoints and those `waiting` for their versions."""
        self._keys, self._served, self._waiting = keys, served, waiting
        self._documents.keep(served)
        self._bound = {name: (endpoint, self._protocols_of(endpoint)) for name, endpoint in served.items()}
        names = served.keys() | waiting.keys()
        default = self._default or (next(iter(names)) if len(names) == 1 else None)
        table: Table = {**self._open, **self._gateway_routes(keys)}
        for endpoint in served.values():
            _add(table, self._endpoint_routes(endpoint))
        predictions: dict[bytes, Predict] = {}
        for endpoint in served.values():
            for path, predict in self._predictions(endpoint, only=endpoint.name == default):
                if "POST" not in table.get(path, ()):
                    predictions.setdefault(path, predict)
        _add(table, {path: {} for path in predictions})
        for name, admission in waiting.items():
            _add(table, _waiting_routes(name, admission, only=name == default))
        _add(table, self._pages(keys))
        self.table, self.predictions = table, predictions
        self.head_cache.clear()

    def unknown(self, request: Request) -> RoadworthyError:
        """The error for a path that is not in the table. A caller without a key only learns that it needs one."""
        if self._keys is None:
            return not_ready("this gateway has no endpoints to serve yet", "not-ready")
        try:
            self._keys.identify(request.headers)
        except RoadworthyError as error:
            return error
        path = request.path
        if b"/versions/" in path:
            return NotFound(
                "the endpoint does not serve that version",
                code="unknown-version",
                hint="its metadata lists the versions",
            )
        for _, (named, *more) in self._forms:
            if path in more:
                return NotFound(
                    "this path names no endpoint, and the default endpoint is not on this gateway"
                    if self._default
                    else "this path names no endpoint, and this gateway has several and no gateway.default_endpoint",
                    code="endpoint-not-named",
                    hint=f"POST to {named.decode()}; GET /v1/models lists the endpoints",
                )
        if path.startswith((b"/v1/models/", b"/v2/models/", b"/endpoints/")):
            return NotFound(
                "no such endpoint on this gateway", code="unknown-endpoint", hint="GET /v1/models lists the endpoints"
            )
        return NotFound("no such path", code="unknown-path", hint="POST to /v1/models/{endpoint}:predict")

    def error_keys(self, path: bytes) -> ErrorKeys | None:
        """The keys of errors in the protocol whose path this is, or would be if its endpoint existed; None for other paths."""
        for protocol, paths in self._forms:
            for head, any_endpoint, tail in (each.partition(_ANY.encode()) for each in paths):
                if path.startswith(head) and path.endswith(tail) and (any_endpoint or path == head):
                    return _error_keys(protocol)
        return None

    def _gateway_routes(self, keys: Keys) -> Table:
        """Routes about the gateway and all endpoints that a key may see."""

        def visible(request: Request) -> set[str]:
            key = keys.identify(request.headers)
            names = self._served.keys() | self._waiting.keys()
            return names if key is None or key.endpoints is None else names & set(key.endpoints)

        def endpoints(request: Request) -> list[Endpoint]:
            return [self._served[name] for name in sorted(visible(request)) if name in self._served]

        async def names(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            return Reply(200, _encode(describe.names([endpoint.name for endpoint in endpoints(request)])))

        async def health(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            return Reply(200, _encode(health_document(self._readiness(), endpoints(request), self.health)))

        async def statistics(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            asked = [(endpoint, variant) for endpoint in endpoints(request) for variant in endpoint.split.variants]
            return Reply(200, _encode(describe.statistics(asked, await self._documents.totals())))

        async def index(request: Request, receive: Receive) -> Reply:
            found, waiting = endpoints(request), sorted(visible(request) & self._waiting.keys() - self._served.keys())
            body = await read_small(receive)
            wanted = False if body is None else body.get("ready", False) if isinstance(body, dict) else None
            if not isinstance(wanted, bool):
                raise InvalidRequest(
                    'the body must be empty or {"ready": true}', code="malformed-request", hint='"ready" is true or false'
                )
            return Reply(200, _encode(describe.index(found, [] if wanted else waiting)))

        return {
            b"/v1/models": {"GET": names},
            b"/v2/models": {"GET": names},
            b"/v2": _document_route(lambda request: keys.identify(request.headers), describe.server),
            b"/healthz": {"GET": health},
            b"/v2/models/stats": {"GET": statistics},
            b"/v2/repository/index": {"POST": index},
        }

    def _pages(self, keys: Keys) -> Table:
        """The documents that protocols have about the gateway."""

        def route(page: Page) -> Mapping[str, Handler]:
            async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
                if not page.open:
                    keys.identify(request.headers)
                status, kind, body = page.answer(GatewayState(self._readiness().ready, __version__))
                return Reply(status, body, [(b"content-type", kind)])

            return {"GET": answer, "HEAD": answer}

        table: Table = {}
        for protocol in protocols().values():
            _add(table, {path: route(page) for path, page in pages_of(protocol).items()})
        return table

    def _endpoint_routes(self, endpoint: Endpoint) -> Table:
        name = endpoint.name.encode("ascii")

        async def openapi(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            endpoint.admission.identify(request.headers)
            return Reply(200, below(await self._documents.openapi(endpoint), request.root))

        table: Table = {
            b"/v1/models/" + name: _about(endpoint, lambda: describe.endpoint(endpoint)),
            b"/v1/models/%b/openapi.json" % name: {"GET": openapi},
        }
        ready = self._ready(endpoint)
        table.update(self._v2_routes(endpoint, b"/v2/models/" + name, None, ready))
        for variant in endpoint.split.variants:
            table.update(self._v2_routes(endpoint, b"/v2/models/%b/versions/%d" % (name, variant.number), variant, ready))
        return table

    def _v2_routes(self, endpoint: Endpoint, path: bytes, variant: Variant | None, ready: Mapping[str, Handler]) -> Table:
        bound = self._bound[endpoint.name][1][OpenInference.name]
        datatypes = bound.datatypes if isinstance(bound, OpenInference) else {}

        async def statistics(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            endpoint.admission.identify(request.headers)
            asked = [(endpoint, each) for each in (endpoint.split.variants if variant is None else (variant,))]
            return Reply(200, _encode(describe.statistics(asked, await self._documents.totals())))

        return {
            path: _about(endpoint, lambda: describe.metadata(endpoint, datatypes, variant)),
            path + b"/ready": ready,
            path + b"/config": _about(endpoint, lambda: describe.config(endpoint, datatypes)),
            path + b"/stats": {"GET": statistics},
        }

    def _protocols_of(self, endpoint: Endpoint) -> dict[str, Chooser]:
        """The endpoint's protocols, reused if the endpoint is unchanged: they hold tables that take time to build."""
        before, bound = self._bound.get(endpoint.name, (None, None))
        if before is endpoint and bound is not None:
            return bound
        return bind_protocols(endpoint.name, endpoint.signature, endpoint.entry.policy)

    def _ready(self, endpoint: Endpoint) -> Mapping[str, Handler]:
        async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            endpoint.admission.identify(request.headers)
            ready = endpoint.name not in self._readiness().unhealthy
            return Reply(200 if ready else 503, _encode(describe.ready(endpoint, ready=ready)))

        return {"GET": answer}

    def _predictions(self, endpoint: Endpoint, *, only: bool) -> Iterator[tuple[bytes, Predict]]:
        """The paths of an endpoint's predictions in every protocol."""
        for name, chooser in self._bound[endpoint.name][1].items():
            protocol = protocols()[name]
            for variant in (None, *endpoint.split.variants):
                paths = paths_of(protocol, endpoint.name, None if variant is None else variant.number, only=only)
                if paths:
                    edge = self._instruments, self._offload, self._scheduler
                    predict = Predict(endpoint, chooser, *edge, variant=variant, error_keys=_error_keys(protocol))
                    yield from ((path, predict) for path in paths)


def _add(table: Table, more: Table) -> None:
    """Add methods that the paths do not have yet: ours come before those of plug-ins."""
    for path, methods in more.items():
        table[path] = {**methods, **table.get(path, {})}


def _error_keys(protocol: WireProtocol) -> ErrorKeys:
    return guarded(protocol, protocol.error_keys, {})


def _about(endpoint: Endpoint, document: Callable[[], dict[str, Any]]) -> Mapping[str, Handler]:
    return _document_route(lambda request: endpoint.admission.identify(request.headers), document)


def _document_route(check: Callable[[Request], object], document: Callable[[], dict[str, Any]]) -> Mapping[str, Handler]:
    async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        check(request)
        return Reply(200, _encode(document()))

    return {"GET": answer}


def _waiting_routes(name: str, admission: Admission, *, only: bool) -> Table:
    """Routes of an endpoint whose versions are still being loaded, or have failed here."""

    async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        admission.identify(request.headers)
        raise endpoint_not_ready()

    posts = [path for protocol in protocols().values() for path in paths_of(protocol, name, None, only=only)]
    gets = (
        "/v1/models/{}",
        "/v1/models/{}/openapi.json",
        "/v2/models/{}",
        "/v2/models/{}/ready",
        "/v2/models/{}/config",
        "/v2/models/{}/stats",
    )
    return {
        **{path: {"POST": answer} for path in posts},
        **{each.format(name).encode("ascii"): {"GET": answer} for each in gets},
    }
