"""`rw.Client`: calls endpoints and manages them; the command line uses it too. `rw.AsyncClient` is the same, to be awaited.

with rw.Client() as client:
    answer = client.predict("flights", rows)

async with rw.AsyncClient() as client:
    answer = await client.predict("flights", rows)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

from roadworthy.client.calls import (
    CONTROL,
    GATEWAY,
    Asynchronous,
    Awaiting,
    Blocking,
    Call,
    Feed,
    Synchronous,
    ask,
    call,
    every,
    feed,
    read,
)
from roadworthy.client.connection import Request, document_of
from roadworthy.client.deployments import Progress, wait_until_serving
from roadworthy.client.feedback import KnownLater, items_of, send_feedback
from roadworthy.client.instances import encode_body
from roadworthy.client.prediction import Prediction
from roadworthy.client.rollouts import AsyncRollouts, Rollouts
from roadworthy.client.streaming import EVENTS, index_of, read_parts, read_prediction
from roadworthy.client.webhooks import AsyncWebhooks, Webhooks
from roadworthy.contract.api import endpoints, keys, registry, system
from roadworthy.contract.api.endpoints import Deployment, Endpoint, Predictions
from roadworthy.contract.api.feedback import FeedbackReply
from roadworthy.contract.api.keys import ApiKey, CreatedKey, NewKey
from roadworthy.contract.api.registry import Model, Version
from roadworthy.contract.api.system import AuditEntry, Events, Status
from roadworthy.foundation.files import temporary_beside
from roadworthy.foundation.references import VersionReference
from roadworthy.settings import ClientSettings, load_settings

PUSH_TIMEOUT_S = 900.0
"""Long, because the control plane proves a pushed package before it replies."""
DEPLOY_TIMEOUT_S = 300.0
_BLOCK_BYTES = 1 << 18


class EndpointChange(TypedDict, total=False):
    """Optional parts of a deployment.

    Attributes:
        policy: policies of the endpoint to change, by name (docs/policies.md), such as {"cache": {"ttl_s": 30}}.
        if_generation: raise Conflict unless the endpoint has this generation.
        supersede: end a rollout in progress and deploy once its traffic has moved back; without it, raise Conflict.
    """

    policy: dict[str, Any]
    if_generation: int
    supersede: bool


class ClientCalls:
    """The calls of a gateway and its control plane. A client connects at the first call and never repeats a request."""

    # Predictions

    @call
    def predict(
        self,
        endpoint: str,
        data: Any,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Call[Prediction]:
        """Request a prediction from an endpoint.

        Args:
            endpoint: its name.
            data: rows as a pandas or polars DataFrame, a numpy array, a list of dicts or of rows, or one dict.
            timeout_s: timeout of this request.
            headers: additional headers, such as the one by which a sticky rollout distinguishes users.

        Raises:
            InvalidInput: the rows do not fit the signature; facts["fields"] names the fields.
            NotFound, Unauthenticated, Forbidden, Unavailable, DeadlineExceeded, ModelFault, ClientError: see each class.
        """
        reply = yield _asking(endpoint, data, headers, timeout_s)
        return read_prediction(reply, document_of(reply, GATEWAY), index_of(data))

    @feed
    def stream(
        self,
        endpoint: str,
        data: Any,
        *,
        first_part_s: float | None = None,
        between_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Feed[Prediction]:
        """Request an answer in parts, and iterate over the parts as they come. The first part that is read sends the request.

        with client.stream("words", [["one two"]]) as parts:
            for part in parts:
                print(part.predictions)

        The `with` ends the request when the block is left, however it is left: then the gateway closes the model's generator. A
        model that answers at once gives one part.

        Args:
            endpoint, data: as for `predict`.
            first_part_s: timeout for the first part, in seconds; None: the client's timeout.
            between_s: timeout for each further part, in seconds, noticed up to 15 s late; None: the client's timeout.
            headers: additional headers. "Request-Timeout-Ms" bounds the whole answer.

        Yields:
            Each part, with one value per row.

        Raises:
            RoadworthyError: as for `predict`. After the first part: the error that ended the answer, or ClientError "timed-out"
                or "answer-cut-short"; facts["parts"] is the number of parts that came.
        """
        asked = _asking(endpoint, data, {**(headers or {}), "Accept": EVENTS}, first_part_s)
        return read_parts(asked, between_s, index_of(data))

    @call
    def endpoint_signature(self, endpoint: str) -> Call[dict[str, Any]]:
        """The gateway's description of an endpoint: versions, runtimes, inputs and outputs."""
        reply = yield Request(GATEWAY, "GET", f"/v1/models/{quote(endpoint, safe='')}")
        return document_of(reply, GATEWAY)

    # Packages and versions

    @call
    def push(
        self,
        package: Path | str,
        *,
        allow_code: str | None = None,
        grants: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> Call[Version]:
        """Register a packed file as the next version of its model. A package that is registered already keeps its version.

        Args:
            package: a .rw file.
            allow_code: the package's digest, to allow its code to run.
            grants: resources for that code in addition to its own files: "read:/path", "device:/dev/name", "device:nvidia",
                "tcp:PORT" or "network", as the server's setting general.grants allows.
            progress: called with the bytes sent and the total.

        Returns:
            The version.

        Raises:
            PackageError: the package is damaged or refused, or its proof failed.
        """
        path = Path(package)
        size = path.stat().st_size
        params: dict[str, str | list[str]] = {"grant": list(grants)}
        if allow_code is not None:
            params["allow_code"] = allow_code
        reply = yield Request(
            CONTROL,
            registry.PUSH.method,
            registry.PUSH.url(),
            content=_blocks(path, size, progress),
            params=params,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            timeout_s=PUSH_TIMEOUT_S,
        )
        return read(registry.PUSH, reply)

    @call
    def models(self) -> Call[list[Model]]:
        """Every model, sorted by name."""
        return every(registry.LIST_MODELS)

    @call
    def versions(self, model: str) -> Call[list[Version]]:
        """Every version of a model, with the endpoints that serve it."""
        return every(registry.LIST_VERSIONS, {"name": model})

    @call
    def version(self, reference: str) -> Call[Version]:
        """One version, by its reference `name:number`."""
        return ask(registry.GET_VERSION, _names(reference))

    @call
    def delete_version(self, reference: str) -> Call[None]:
        """Delete a version. Raises Conflict when an endpoint uses it."""
        return ask(registry.DELETE_VERSION, _names(reference))

    @call
    def download(self, reference: str, path: Path) -> Call[None]:
        """Download a version's packed file to `path`, which is replaced once the whole file is there."""
        operation, staged = registry.DOWNLOAD, temporary_beside(path)
        try:
            with staged.open("xb") as handle:
                url = operation.url(**_names(reference))
                yield Request(CONTROL, operation.method, url, timeout_s=PUSH_TIMEOUT_S, sink=handle.write)
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)

    # Endpoints

    @call
    def deploy(self, reference: str, endpoint: str, **change: Unpack[EndpointChange]) -> Call[Endpoint]:
        """Deploy a version to an endpoint. Returns the endpoint at once; `wait` waits for the switch."""
        return ask(endpoints.DEPLOY, {"name": endpoint}, body=Deployment(version=reference, **change))

    @call
    def rollback(self, endpoint: str, *, idempotency_key: str | None = None) -> Call[Endpoint]:
        """Roll an endpoint back to its previous version. Returns it at once; `wait` waits for the switch.

        Args:
            idempotency_key: a text of yours; a repetition with it returns the first reply instead of rolling back again.
        """
        return ask(endpoints.ROLL_BACK, {"name": endpoint}, idempotency_key=idempotency_key)

    @call
    def wait(self, asked: Endpoint, *, timeout_s: float = DEPLOY_TIMEOUT_S, progress: Progress | None = None) -> Call[Endpoint]:
        """Wait until an endpoint serves the version of `asked`, the result of `deploy` or `rollback`. Returns the endpoint.

        Raises:
            RoadworthyError: the version could not be loaded; the code says why.
            Conflict: code "deploy-superseded". DeadlineExceeded: code "deploy-timeout".
        """
        return wait_until_serving(asked, timeout_s, progress)

    @call
    def endpoint(self, name: str) -> Call[Endpoint]:
        """One endpoint."""
        return ask(endpoints.GET, {"name": name})

    @call
    def endpoints(self) -> Call[list[Endpoint]]:
        """Every endpoint."""
        return every(endpoints.LIST)

    @call
    def undeploy(self, endpoint: str) -> Call[None]:
        """Delete an endpoint. Its versions stay in the registry."""
        return ask(endpoints.UNDEPLOY, {"name": endpoint})

    @call
    def logs(self, endpoint: str, *, last: int = 20, prediction_id: str | None = None) -> Call[Predictions]:
        """Prediction records, newest last, as `items`, and the number of `lost` records."""
        params = {"last": last} if prediction_id is None else {"id": prediction_id}
        return ask(endpoints.LIST_PREDICTIONS, {"name": endpoint}, params=params)

    @call
    def feedback(
        self,
        endpoint: str,
        known: KnownLater | Iterable[KnownLater] | Any,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Call[FeedbackReply]:
        """Send feedback on predictions to the rollout that assigned them. Each item counts once, so after an error all items may
        be sent again. A key of the role predictor is enough.

        Args:
            endpoint: the endpoint that answered.
            known: one item, a list of items, or a pandas or polars DataFrame with a column prediction_id and any of correct,
                event and a column for each metric. Empty cells are ignored.
            progress: called with the items sent and the total, after every thousand items.

        Returns:
            The result of each item, in order, and the count of each result. An item that cannot be read is "invalid" and does not
            stop the others.

        Raises:
            InvalidInput: "invalid-feedback": there are no items.
            NotFound: "unknown-endpoint". InvalidRequest, Forbidden, Unavailable, ClientError: see each class.
        """
        return send_feedback(endpoint, items_of(known), progress)

    @call
    def events(self, after: int = 0, *, wait_s: float = 0.0) -> Call[Events]:
        """The events after event number `after`: `items`, oldest first, and `next`, the `after` of the next call. Without an
        event it waits up to `wait_s` seconds, at most 60 and less than the client's timeout."""
        return ask(system.LIST_EVENTS, params={"after": after, "wait_s": wait_s})

    # Keys and state

    @call
    def keys(self) -> Call[list[ApiKey]]:
        """Every key, oldest first, never the key itself."""
        return every(keys.LIST)

    @call
    def create_key(
        self,
        role: str,
        endpoints: Sequence[str] | None = None,
        name: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Call[CreatedKey]:
        """Create a key; `key` of the result is shown only once.

        Args:
            role: admin, predictor or gateway.
            endpoints: the endpoints that a predictor may call; None means all.
            name: name of the key, its id by default. Gateways that use the key report as `<name>/<instance>`.
            idempotency_key: a text of yours; a repetition with it creates no second key.
        """
        new = NewKey(role=role, endpoints=None if endpoints is None else tuple(endpoints), name=name)
        return ask(keys.CREATE, body=new, idempotency_key=idempotency_key)

    @call
    def revoke_key(self, key_id: str) -> Call[None]:
        """Revoke a key."""
        return ask(keys.REVOKE, {"key_id": key_id})

    @call
    def audit(self, last: int = 100, subject: str | None = None) -> Call[list[AuditEntry]]:
        """The newest `last` entries of the audit trail, at most 1,000.

        Args:
            subject: show only entries about this endpoint, version (`model:number`), webhook or key; None means all.
        """
        page = yield from ask(system.LIST_AUDIT, params={"last": last, "subject": subject})
        return page.items

    @call
    def status(self) -> Call[Status]:
        """The state of the control plane, the gateways with their workers, and the endpoints."""
        return ask(system.STATUS)


def _settings(url: str | None, key: str | None, control_url: str | None, timeout_s: float | None) -> ClientSettings:
    flags = {"gateway_url": url, "key": key, "control_url": control_url, "timeout_s": timeout_s}
    return load_settings({f"client.{name}": value for name, value in flags.items()}).client


class Client(Synchronous, ClientCalls):
    """A client of a gateway and its control plane. It connects at the first call and never repeats a request.

    Args:
        url: the gateway's address. None: ROADWORTHY_GATEWAY_URL, then the address that `roadworthy up` stored, then
            http://127.0.0.1:8080.
        key: an API key. None: ROADWORTHY_KEY, then the key that `roadworthy up` stored (for its own addresses only).
        control_url: the control plane's address, with the same defaults; predictions do not use it.
        timeout_s: timeout of each request; None: as configured, else 60.

    Raises:
        SettingsError: an address is not a valid URL, or the configuration has faults.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        control_url: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.transport = Blocking(_settings(url, key, control_url, timeout_s))

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """A client with exactly these settings."""
        client = cls.__new__(cls)
        client.transport = Blocking(settings)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.transport.close()

    @property
    def rollouts(self) -> Rollouts:
        """Start, follow and control rollouts."""
        return Rollouts(self.transport)

    @property
    def webhooks(self) -> Webhooks:
        """Notify other systems of events."""
        return Webhooks(self.transport)


class AsyncClient(Asynchronous, ClientCalls):
    """As `Client`, with the same arguments and methods; each method is to be awaited."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        control_url: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.transport = Awaiting(_settings(url, key, control_url, timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.transport.close()

    @property
    def rollouts(self) -> AsyncRollouts:
        """Start, follow and control rollouts."""
        return AsyncRollouts(self.transport)

    @property
    def webhooks(self) -> AsyncWebhooks:
        """Notify other systems of events."""
        return AsyncWebhooks(self.transport)


def _asking(endpoint: str, data: Any, headers: Mapping[str, str] | None, timeout_s: float | None) -> Request:
    return Request(
        GATEWAY,
        "POST",
        f"/v1/models/{quote(endpoint, safe='')}:predict",
        content=encode_body(data),
        headers={**(headers or {}), "Content-Type": "application/json"},
        timeout_s=timeout_s,
    )


def _names(reference: str) -> dict[str, str | int]:
    parsed = VersionReference.parse(reference)
    return {"name": parsed.name, "version": parsed.version}


def _blocks(path: Path, size: int, progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    sent = 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            yield block
            sent += len(block)
            if progress is not None:
                progress(sent, size)
