"""The installation: its status with the gateways, the audit trail, events and probes."""

from __future__ import annotations

import msgspec

from roadworthy.contract.api.endpoints import Endpoint
from roadworthy.contract.api.operation import OPEN, READ, Count, Document, Name, Operation, Page, Resource, Time
from roadworthy.contract.telemetry import WorkerReport


class ControlStatus(Resource, frozen=True, kw_only=True):
    """The control plane: its release, the database's epoch and revision, and log lines that it dropped."""

    version: str
    epoch: str
    revision: Count
    log_lines_dropped: Count = 0


class Alert(Resource, frozen=True, kw_only=True):
    """A condition that an operator should look at."""

    code: str
    gateway: str
    text: str
    hint: str


class Backlog(Resource, frozen=True, kw_only=True):
    """Events that webhooks still have to receive, and those that they never will."""

    behind: Count
    lost: Count


class GatewayStatus(Resource, frozen=True, kw_only=True):
    """A gateway and its workers. `alive`: whether it reports. `lost_records`: prediction records that it dropped."""

    id: str
    boot: str
    seen_at: Time
    alive: bool = True
    revision: Count
    workers: tuple[WorkerReport, ...]
    lost_records: Count


class Status(Resource, frozen=True, kw_only=True):
    """The whole installation. `packages_gone`: versions whose bytes are missing from the blob store."""

    control: ControlStatus
    alerts: list[Alert] = msgspec.field(default_factory=list)
    packages_gone: list[str] = msgspec.field(default_factory=list)
    webhooks: Backlog = Backlog(behind=0, lost=0)
    gateways: list[GatewayStatus]
    endpoints: list[Endpoint]


class AuditEntry(Resource, frozen=True, kw_only=True):
    """Who did what, when."""

    id: str
    at: Time
    actor: str
    verb: str
    subject: str
    detail: Document


class Event(Resource, frozen=True, kw_only=True):
    """Something that happened to a rollout or an endpoint, for other systems."""

    number: Count
    at: Time
    kind: str
    subject: Name
    detail: Document


class Events(Page[Event], frozen=True, kw_only=True):
    """Events, oldest first; `next` is the value of `after` for the next call, `lost` events were deleted before they were
    read."""

    next: Count
    lost: Count


class Live(Resource, frozen=True, kw_only=True):
    """The process is alive."""

    live: bool


class Ready(Resource, frozen=True, kw_only=True):
    """The control plane is ready."""

    ready: bool


STATUS = Operation("get_status", "GET", "/api/v1/status", "Get the status of the installation", READ, Status)
LIST_AUDIT = Operation("list_audit_entries", "GET", "/api/v1/audit", "List audit entries", READ, Page[AuditEntry])
LIST_EVENTS = Operation("list_events", "GET", "/api/v1/events", "Follow events", READ, Events)
LIVEZ = Operation("check_alive", "GET", "/livez", "Check that the process is alive", OPEN, Live)
READYZ = Operation("check_ready", "GET", "/readyz", "Check that the control plane is ready", OPEN, Ready)
