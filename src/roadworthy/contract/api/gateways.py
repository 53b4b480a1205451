"""What gateways ask of the control plane, with a key of the role gateway. Their messages are those of `contract/`."""

from __future__ import annotations

from roadworthy.contract.api.operation import GATEWAY, Count, Document, Operation, Resource
from roadworthy.contract.telemetry import Telemetry


class Accepted(Resource, frozen=True, kw_only=True):
    """The sequence of the frame that was accepted."""

    accepted: Count


_NOTHING_NEWER = {304: "There is no newer snapshot"}
_RECORDS = "/internal/v1/records/{gateway:path}/{file}"
SNAPSHOT = Operation("get_snapshot", "GET", "/internal/v1/snapshot", "Get the snapshot", GATEWAY, Document, others=_NOTHING_NEWER)
PACKAGE = Operation("get_package", "GET", "/internal/v1/packages/{digest}", "Get a package", GATEWAY, bytes)
REPORT = Operation("report", "POST", "/internal/v1/telemetry", "Report", GATEWAY, Accepted, Telemetry)
KEEP_RECORDS = Operation("keep_records", "PUT", _RECORDS, "Store a file of records", GATEWAY, type(None), bytes, 204)
