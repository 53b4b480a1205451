"""Endpoints, and the predictions that they gave."""

from __future__ import annotations

from typing import Any

from roadworthy.contract.api.operation import (
    READ,
    RELEASE,
    Count,
    Document,
    GivenCount,
    GivenDocument,
    GivenSwitch,
    Name,
    Operation,
    Page,
    Reference,
    RequestBody,
    Resource,
    Time,
)


class Deployment(RequestBody, frozen=True, kw_only=True):
    """A deployment to an endpoint.

    Attributes:
        version: the version to serve, such as flights:3.
        policy: policy settings to change; the others stay.
        if_generation: refuse with 409 unless the endpoint has this generation; 0 if the endpoint must not exist yet.
        supersede: end a running rollout and deploy once its traffic has moved back; without it a running rollout is a 409.
    """

    version: Reference
    policy: GivenDocument | None = None
    if_generation: GivenCount | None = None
    supersede: GivenSwitch = False


class PendingChange(Resource, frozen=True, kw_only=True):
    """The version that an endpoint is changing to: LOADING or FAILED, with the reason, and the code of the failure."""

    version: Reference
    digest: str
    state: str
    reason: str | None
    code: str | None
    since: Time


class RolloutProgress(Resource, frozen=True, kw_only=True):
    """The rollout that runs on an endpoint. Steps count from 1; `share` is in percent."""

    id: str
    paused: bool
    version: Reference
    phase: str
    step: Count
    steps: Count
    share: float


class Endpoint(Resource, frozen=True, kw_only=True):
    """An endpoint.

    Attributes:
        generation: grows with every change.
        state: serving, loading, failed or empty.
        version: the current version; None before the first one serves.
        revision: of the database. reached_revision: by which every live worker serves the endpoint; None without workers.
    """

    name: Name
    generation: Count
    state: str
    version: Reference | None
    digest: str | None
    previous: Reference | None
    pending: PendingChange | None
    rollout: RolloutProgress | None
    policy: Document
    signature: Document
    changed_at: Time
    changed_by: str
    revision: Count
    reached_revision: Count | None


class PredictionRecord(Resource, frozen=True, kw_only=True):
    """One request for predictions. `inputs` and `outputs` are as they travelled, where they were JSON."""

    id: str
    time: Time
    endpoint: Name
    generation: Count
    version: Reference | None
    digest: str | None
    runtime: str | None
    caller: str | None
    request_id: str
    status: Count
    code: str
    latency_ms: float
    rows: Count
    inputs: Any
    outputs: Any


class Unreadable(Resource, frozen=True, kw_only=True):
    """Record files that are damaged or missing, and the number of their predictions."""

    files: Count
    predictions: Count


class Predictions(Page[PredictionRecord], frozen=True, kw_only=True):
    """The newest predictions, newest last; `lost` records were dropped before they arrived."""

    lost: Count
    unreadable: Unreadable


_ENDPOINT = "/api/v1/endpoints/{name}"
_LOADS = {202: "The version is loading"}
LIST = Operation("list_endpoints", "GET", "/api/v1/endpoints", "List endpoints", READ, Page[Endpoint])
GET = Operation("get_endpoint", "GET", _ENDPOINT, "Get an endpoint", READ, Endpoint)
DEPLOY = Operation(
    "deploy", "PUT", _ENDPOINT, "Deploy a version", RELEASE, Endpoint, Deployment, 202, {200: "The version serves"}
)
ROLL_BACK = Operation("roll_back", "POST", f"{_ENDPOINT}:rollback", "Roll back", RELEASE, Endpoint, others=_LOADS)
UNDEPLOY = Operation("undeploy", "DELETE", _ENDPOINT, "Undeploy an endpoint", RELEASE, type(None), status=204)
LIST_PREDICTIONS = Operation("list_predictions", "GET", f"{_ENDPOINT}/predictions", "List predictions", READ, Predictions)
