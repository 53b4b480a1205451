"""`rw.Client`: calls endpoints and manages them; the command line uses it too.

with rw.Client() as client:
    answer = client.predict("flights", rows)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack
from urllib.parse import quote

import httpx

from roadworthy.client.connection import Connection
from roadworthy.client.deployments import Document, Progress, wait_until_serving
from roadworthy.client.feedback import FeedbackReply, KnownLater, items_of, send_feedback
from roadworthy.client.instances import encode_body
from roadworthy.client.prediction import Prediction
from roadworthy.client.rollouts import Rollouts
from roadworthy.client.webhooks import Webhooks
from roadworthy.foundation.errors import ClientError
from roadworthy.foundation.references import VersionReference
from roadworthy.settings import CONTROL_URL, GATEWAY_URL, ClientSettings, load_settings

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

    policy: Mapping[str, Any]
    if_generation: int
    supersede: bool


class Client:
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
        flags = {"gateway_url": url, "key": key, "control_url": control_url, "timeout_s": timeout_s}
        self._settings = load_settings({f"client.{name}": value for name, value in flags.items()}).client

    @classmethod
    def from_settings(cls, settings: ClientSettings) -> Self:
        """A client with exactly these settings."""
        client = cls.__new__(cls)
        client.__dict__["_settings"] = settings
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for name in ("_gateway", "_control"):
            if name in self.__dict__:
                self.__dict__.pop(name).close()

    @cached_property
    def _gateway(self) -> Connection:
        return self._connection(self._settings.gateway_url or GATEWAY_URL, "gateway")

    @cached_property
    def _control(self) -> Connection:
        return self._connection(self._settings.control_url or CONTROL_URL, "control plane")

    def _connection(self, url: str, what: str) -> Connection:
        return Connection(url, self._settings.key, self._settings.timeout_s, what)

    # Predictions

    def predict(
        self,
        endpoint: str,
        data: Any,
        *,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Prediction:
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
        reply = self._gateway.call(
            "POST",
            f"/v1/models/{quote(endpoint, safe='')}:predict",
            content=encode_body(data),
            headers={**(headers or {}), "Content-Type": "application/json"},
            timeout=timeout_s or self._settings.timeout_s,
        )
        predictions = self._gateway.document(reply).get("predictions")
        if not isinstance(predictions, list):
            raise ClientError(
                "expected predictions in the reply, got none",
                code="unexpected-reply",
                hint="check the gateway's address",
            )
        index = data.index if type(data).__module__.startswith("pandas") else None
        named = {name: reply.headers.get(header, "") for name, header in _HEADERS.items()}
        return Prediction(predictions, **named, index=index)

    def endpoint_signature(self, endpoint: str) -> dict[str, Any]:
        """The gateway's description of an endpoint: versions, runtimes, inputs and outputs."""
        return self._gateway.ask("GET", f"/v1/models/{quote(endpoint, safe='')}")

    # Packages and versions

    def push(
        self,
        package: Path | str,
        *,
        allow_code: str | None = None,
        grants: Sequence[str] = (),
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Register a packed file as the next version of its model. A package that is registered already keeps its version.

        Args:
            package: a .rw file.
            allow_code: the package's digest, to allow its code to run.
            grants: resources for that code in addition to its own files: "read:/path", "device:/dev/name", "device:nvidia",
                "tcp:PORT" or "network", as the server's setting general.grants allows.
            progress: called with the bytes sent and the total.

        Returns:
            The version: name, version, digest, size_bytes, pushed_at, pushed_by, runtimes, grants.

        Raises:
            PackageError: the package is damaged or refused, or its proof failed.
        """
        path = Path(package)
        size = path.stat().st_size
        params: dict[str, str | list[str]] = {"grant": list(grants)}
        if allow_code is not None:
            params["allow_code"] = allow_code
        return self._control.ask(
            "POST",
            "/api/v1/packages",
            content=_blocks(path, size, progress),
            params=params,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            timeout=httpx.Timeout(PUSH_TIMEOUT_S, connect=self._settings.timeout_s),
        )

    def models(self) -> list[dict[str, Any]]:
        """Every model: name, number of versions, latest version."""
        return self._items("/api/v1/models")

    def versions(self, model: str) -> list[dict[str, Any]]:
        """Every version of a model, with the endpoints that serve it."""
        return self._items(f"/api/v1/models/{quote(model, safe='')}/versions")

    def version(self, reference: str) -> dict[str, Any]:
        """One version, by its reference `name:number`."""
        return self._get(_version_path(reference))

    def delete_version(self, reference: str) -> None:
        """Delete a version. Raises Conflict when an endpoint uses it."""
        self._control.call("DELETE", _version_path(reference))

    def download(self, reference: str, path: Path) -> None:
        """Download a version's packed file to `path`."""
        with path.open("wb") as handle:
            for block in self._control.read(f"{_version_path(reference)}/package", PUSH_TIMEOUT_S):
                handle.write(block)

    # Endpoints

    def deploy(self, reference: str, endpoint: str, **change: Unpack[EndpointChange]) -> dict[str, Any]:
        """Deploy a version to an endpoint. Returns the endpoint's document at once; `wait` waits for the switch."""
        return self._control.ask("PUT", _endpoint_path(endpoint), json={"version": reference, **change})

    def rollback(self, endpoint: str) -> dict[str, Any]:
        """Roll an endpoint back to its previous version. Returns its document at once; `wait` waits for the switch."""
        return self._control.ask("POST", f"{_endpoint_path(endpoint)}:rollback")

    def wait(self, asked: Document, *, timeout_s: float = DEPLOY_TIMEOUT_S, progress: Progress | None = None) -> Document:
        """Wait until an endpoint serves the version of `asked`, the result of `deploy` or `rollback`. Returns its document.

        Raises:
            RoadworthyError: the version could not be loaded; the code says why.
            Conflict: code "deploy-superseded". DeadlineExceeded: code "deploy-timeout".
        """
        return wait_until_serving(lambda: self.endpoint(str(asked["name"])), asked, timeout_s, progress)

    def endpoint(self, name: str) -> dict[str, Any]:
        """An endpoint's document."""
        return self._get(_endpoint_path(name))

    def endpoints(self) -> list[dict[str, Any]]:
        """Every endpoint's document."""
        return self._items("/api/v1/endpoints")

    def undeploy(self, endpoint: str) -> None:
        """Delete an endpoint. Its versions stay in the registry."""
        self._control.call("DELETE", _endpoint_path(endpoint))

    def logs(self, endpoint: str, *, last: int = 20, prediction_id: str | None = None) -> dict[str, Any]:
        """Prediction records, newest last, as "items", and the number of "lost" records."""
        params = {"last": str(last)} if prediction_id is None else {"id": prediction_id}
        return self._get(f"{_endpoint_path(endpoint)}/predictions", params)

    def feedback(
        self,
        endpoint: str,
        known: KnownLater | Iterable[KnownLater] | Any,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> FeedbackReply:
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
        return send_feedback(self._control, f"{_endpoint_path(endpoint)}/feedback", items_of(known), progress)

    @property
    def rollouts(self) -> Rollouts:
        """Start, follow and control rollouts."""
        return Rollouts(self._control)

    def events(self, after: int = 0, *, wait_s: float = 0.0) -> dict[str, Any]:
        """The events after event number `after`: "items", oldest first, and "next", the `after` of the next call. Without an
        event it waits up to `wait_s` seconds, at most 60 and less than the client's timeout."""
        return self._get("/api/v1/events", {"after": str(after), "wait_s": str(wait_s)})

    @property
    def webhooks(self) -> Webhooks:
        """Notify other systems of events."""
        return Webhooks(self._control)

    # Keys and state

    def keys(self) -> list[dict[str, Any]]:
        """Every key: id, name and role, never the key itself."""
        return self._items("/api/v1/keys")

    def create_key(self, role: str, endpoints: Sequence[str] | None = None, name: str | None = None) -> dict[str, Any]:
        """Create a key: "id", "name", "role" and "key", which is shown only once.

        Args:
            role: admin, predictor or gateway.
            endpoints: the endpoints that a predictor may call; None means all.
            name: name of the key, its id by default. Gateways that use the key report as `<name>/<instance>`.
        """
        body: dict[str, Any] = {"role": role} if name is None else {"role": role, "name": name}
        if endpoints is not None:
            body["endpoints"] = list(endpoints)
        return self._control.ask("POST", "/api/v1/keys", json=body)

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key."""
        self._control.call("DELETE", f"/api/v1/keys/{quote(key_id, safe='')}")

    def audit(self, last: int = 100, subject: str | None = None) -> list[dict[str, Any]]:
        """The newest `last` entries of the audit trail, at most 1,000: "at", "actor", "verb", "subject" and "detail".

        Args:
            subject: show only entries about this endpoint, version (`model:number`), webhook or key; None means all.
        """
        params = {"last": str(last)} if subject is None else {"last": str(last), "subject": subject}
        items: list[dict[str, Any]] = self._get("/api/v1/audit", params)["items"]
        return items

    def status(self) -> dict[str, Any]:
        """The state of the control plane, the gateways with their workers, and the endpoints."""
        return self._get("/api/v1/status")

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._control.ask("GET", path, params=params or {})

    def _items(self, path: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            page = self._get(path, None if cursor is None else {"cursor": cursor})
            items.extend(page["items"])
            cursor = page.get("next")
            if cursor is None:
                return items


_HEADERS = {
    "id": "roadworthy-prediction-id",
    "version": "roadworthy-version",
    "digest": "roadworthy-digest",
    "runtime": "roadworthy-runtime",
    "request_id": "x-request-id",
    "fallback": "roadworthy-fallback",
    "cache_status": "cache-status",
}


def _version_path(reference: str) -> str:
    parsed = VersionReference.parse(reference)
    return f"/api/v1/models/{parsed.name}/versions/{parsed.version}"


def _endpoint_path(name: str) -> str:
    return f"/api/v1/endpoints/{quote(name, safe='')}"


def _blocks(path: Path, size: int, progress: Callable[[int, int], None] | None) -> Iterator[bytes]:
    sent = 0
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            yield block
            sent += len(block)
            if progress is not None:
                progress(sent, size)
