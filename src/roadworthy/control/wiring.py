"""Builds the control plane from its start document."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from roadworthy.control.context import ControlContext, ControlSettings, WriteLock
from roadworthy.control.publish.event_stream import EventStream
from roadworthy.control.publish.snapshot_publisher import SnapshotPublisher
from roadworthy.control.resources.keys import ensure
from roadworthy.control.resources.proof import PROOF_S, Proving
from roadworthy.foundation.clock import SteadyClock, SystemClock
from roadworthy.foundation.confine.plan import REQUIRED, Bounds
from roadworthy.store.blobs import open_blobs
from roadworthy.store.engine import open_database
from roadworthy.store.epochs import EpochFile
from roadworthy.webhooks.sending import Sender


def build_context(document: Mapping[str, Any]) -> ControlContext:
    """Open the database and the blob store, and make sure that the start document's bootstrap keys exist.

    Raises:
        StoreError: the database is unusable.
    """
    chosen: dict[str, Any] = {name: document[name] for name in ("max_package_bytes", "feedback_max_rows")}
    chosen |= {name: document[name] for name in ("record_max_bytes", "database_wait_s") if document.get(name) is not None}
    chosen |= {name: tuple(document.get(name) or ()) for name in ("allowed_hosts", "webhook_networks")}
    private = (Path(document["blob_folder"]), *(Path(folder) for folder in document.get("private", ())))
    bounds = Bounds(document.get("confinement") or REQUIRED, tuple(document.get("grants") or ()), private)
    proving = Proving(document.get("proof_timeout_s") or PROOF_S, bounds)
    settings = ControlSettings(**chosen, proving=proving)
    file = document.get("epoch_file")
    epochs = EpochFile(
        None if file is None else Path(file), known=document.get("known_epoch"), give_up=document.get("give_up_epoch")
    )
    database = open_database(str(document["database_url"]), settings.database_wait_s, epochs.expected())
    blobs = open_blobs(document.get("blob_url"), Path(document["blob_folder"]))
    publisher, stream = SnapshotPublisher(database, epochs), EventStream(database)
    lock = WriteLock(settings.database_wait_s)
    clock = SteadyClock(SystemClock())
    sender = Sender([ip_network(text) for text in settings.webhook_networks], clock)
    context = ControlContext(database, blobs, publisher, stream, clock, settings, sender, lock)
    ensure(context, document.get("bootstrap_keys", ()))
    context.find_projects()
    return context
