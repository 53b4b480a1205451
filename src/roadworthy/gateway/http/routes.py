"""Every route of the gateway: handlers by raw path and method. The table is rebuilt when the served endpoints change.

Paths are compared as undecoded bytes: a path that is not literally in the table does not exist. Only the colon of `:predict` may
be sent as %3A. All routes except the probes need a key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import httptools
import msgspec

from roadworthy.codecs.formats import Codecs, bind_codecs
from roadworthy.foundation.errors import NotFound, RoadworthyError
from roadworthy.gateway.http import describe
from roadworthy.gateway.http.head_cache import HeadCache
from roadworthy.gateway.http.health import health_document, probe_routes
from roadworthy.gateway.http.messages import Handler, Receive, Reply, Request, endpoint_not_ready, not_ready
from roadworthy.gateway.http.predict import Offload, Predict
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.gateway.http.wire import lines
from roadworthy.runtime.manager import Version
from roadworthy.serving.admission import Admission, Keys
from roadworthy.serving.endpoint import Endpoint
from roadworthy.serving.health.readiness import ProcessHealth, Readiness
from roadworthy.serving.pipeline import Instruments
from roadworthy.serving.variant import Variant

Table = dict[bytes, Mapping[str, Handler]]
_COLONS = (b":", b"%3A", b"%3a")
_encode = msgspec.json.Encoder().encode


class Routing:
    """Builds the table of routes, and the error for a path outside of it.

    Args:
        instruments, offload, scheduler: passed to every prediction.
        readiness: for the probes.

    Attributes:
        table: routes that the application answers.
        predictions: by raw path; connections answer these themselves. head_cache: parsed heads of predictions.
        health: of this process, for /healthz; None until the worker has set it.
    """

    def __init__(
        self, instruments: Instruments, offload: Offload, scheduler: StepScheduler, readiness: Callable[[], Readiness]
    ) -> None:
        self._instruments = instruments
        self._offload = offload
        self._scheduler = scheduler
        self._readiness = readiness
        self._probes = probe_routes(readiness)
        self._keys: Keys | None = None
        self.table: Table = dict(self._probes)
        self.predictions: dict[bytes, Predict] = {}
        self.head_cache = HeadCache()
        self.health: ProcessHealth | None = None
        self._served: Mapping[str, Endpoint] = {}
        self._codecs: dict[str, tuple[Endpoint, Codecs]] = {}

    def find(self, url: bytes) -> Predict | None:
        """The prediction that answers a POST to this raw target; None for other targets."""
        found = self.predictions.get(url)
        if found is None and not url.startswith(b"/v"):
            with contextlib.suppress(httptools.HttpParserInvalidURLError):
                found = self.predictions.get(httptools.parse_url(url).path)
        elif found is None and b"?" in url:
            found = self.predictions.get(url.partition(b"?")[0])
        return found

    def head(self, label: str, version: Version) -> bytes:
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
        self._keys, self._served = keys, served
        self._codecs = {name: (endpoint, self._codecs_of(endpoint)) for name, endpoint in served.items()}
        table: Table = dict(self._probes)
        table[b"/v1/models"] = table[b"/v2/models"] = self._list(keys, served)
        table[b"/v2"] = _document_route(lambda request: keys.identify(request.headers), describe.server)
        table[b"/healthz"] = self._health(keys)
        for name, admission in waiting.items():
            table.update(_waiting_routes(name, admission))
        predictions: dict[bytes, Predict] = {}
        for endpoint in served.values():
            table.update(self._endpoint_routes(endpoint))
            predictions.update(self._predictions(endpoint))
        table.update({path: {} for path in predictions})
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
        if b"/versions/" in request.path:
            return NotFound(
                "the endpoint does not serve that version",
                code="unknown-version",
                hint="its metadata lists the versions",
            )
        if request.path.startswith((b"/v1/models/", b"/v2/models/")):
            return NotFound(
                "no such endpoint on this gateway", code="unknown-endpoint", hint="GET /v1/models lists the endpoints"
            )
        return NotFound("no such path", code="unknown-path", hint="POST to /v1/models/{endpoint}:predict")

    def _list(self, keys: Keys, served: Mapping[str, Endpoint]) -> Mapping[str, Handler]:
        async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            key = keys.identify(request.headers)
            visible = served if key is None or key.endpoints is None else set(served) & set(key.endpoints)
            return Reply(200, _encode(describe.names(list(visible))))

        return {"GET": answer}

    def _endpoint_routes(self, endpoint: Endpoint) -> Table:
        name = endpoint.name.encode("ascii")
        table: Table = {b"/v1/models/" + name: _about(endpoint, lambda: describe.endpoint(endpoint))}
        ready = self._ready(endpoint)
        table.update(self._v2_routes(endpoint, b"/v2/models/" + name, None, ready))
        for variant in endpoint.split.variants:
            table.update(self._v2_routes(endpoint, b"/v2/models/%b/versions/%d" % (name, variant.number), variant, ready))
        return table

    def _v2_routes(self, endpoint: Endpoint, path: bytes, variant: Variant | None, ready: Mapping[str, Handler]) -> Table:
        datatypes = self._codecs[endpoint.name][1].open_inference.datatypes
        return {
            path: _about(endpoint, lambda: describe.metadata(endpoint, datatypes, variant)),
            path + b"/ready": ready,
        }

    def _health(self, keys: Keys) -> Mapping[str, Handler]:
        async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            key = keys.identify(request.headers)
            names = None if key is None else key.endpoints
            served = [each for name, each in self._served.items() if names is None or name in names]
            return Reply(200, _encode(health_document(self._readiness(), served, self.health)))

        return {"GET": answer}

    def _codecs_of(self, endpoint: Endpoint) -> Codecs:
        """The endpoint's codecs, reused if the endpoint is unchanged: they hold tables that take time to build."""
        before, codecs = self._codecs.get(endpoint.name, (None, None))
        if before is endpoint and codecs is not None:
            return codecs
        return bind_codecs(endpoint.name, endpoint.signature, endpoint.entry.policy)

    def _ready(self, endpoint: Endpoint) -> Mapping[str, Handler]:
        async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
            endpoint.admission.identify(request.headers)
            ready = endpoint.name not in self._readiness().unhealthy
            return Reply(200 if ready else 503, _encode(describe.ready(endpoint, ready=ready)))

        return {"GET": answer}

    def _predictions(self, endpoint: Endpoint) -> dict[bytes, Predict]:
        name = endpoint.name.encode("ascii")
        _, codecs = self._codecs[endpoint.name]
        predict = Predict(endpoint, codecs.formats, self._instruments, self._offload, self._scheduler)
        found = {b"/v1/models/%b%bpredict" % (name, colon): predict for colon in _COLONS}
        found[b"/v2/models/%b/infer" % name] = Predict(
            endpoint, codecs.open_inference, self._instruments, self._offload, self._scheduler
        )
        for variant in endpoint.split.variants:
            path = b"/v2/models/%b/versions/%d/infer" % (name, variant.number)
            found[path] = Predict(endpoint, codecs.open_inference, self._instruments, self._offload, self._scheduler, variant)
        return found


def _about(endpoint: Endpoint, document: Callable[[], dict[str, Any]]) -> Mapping[str, Handler]:
    return _document_route(lambda request: endpoint.admission.identify(request.headers), document)


def _document_route(check: Callable[[Request], object], document: Callable[[], dict[str, Any]]) -> Mapping[str, Handler]:
    async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        check(request)
        return Reply(200, _encode(document()))

    return {"GET": answer}


def _waiting_routes(name: str, admission: Admission) -> Table:
    """Routes of an endpoint whose versions are still being loaded, or have failed here."""

    async def answer(request: Request, receive: Receive) -> Reply:  # noqa: ARG001 - a handler
        admission.identify(request.headers)
        raise endpoint_not_ready()

    path = name.encode("ascii")
    posts = [b"/v1/models/%b%bpredict" % (path, colon) for colon in _COLONS]
    gets = [b"/v1/models/" + path, b"/v2/models/" + path, b"/v2/models/%b/ready" % path]
    return {
        **{each: {"POST": answer} for each in (*posts, b"/v2/models/%b/infer" % path)},
        **{each: {"GET": answer} for each in gets},
    }
