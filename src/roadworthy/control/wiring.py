"""Builds the control plane from its start document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roadworthy.control.bulletin import Bulletin
from roadworthy.control.feed import Feed
from roadworthy.control.plane import ControlSettings, Plane, Turn
from roadworthy.control.verbs.keys import ensure
from roadworthy.foundation.clock import SteadyClock, SystemClock
from roadworthy.store.blobs import FolderBlobs
from roadworthy.store.engine import open_database


def build_plane(document: Mapping[str, Any]) -> Plane:
    """Open the database and the blob store, and make sure of the keys that the document brings.

    Raises:
        StoreError: the database cannot be used.
    """
    settings = ControlSettings(allowed_hosts=tuple(document.get("allowed_hosts", ())))
    chosen = {
        name: document[name]
        for name in ("max_package_bytes", "record_max_bytes", "feedback_max_rows", "proof_timeout_s", "database_wait_s")
        if document.get(name) is not None
    }
    settings = ControlSettings(settings.allowed_hosts, **chosen)
    database = open_database(str(document["database_url"]), settings.database_wait_s)
    blobs = FolderBlobs(Path(document["blob_folder"]))
    board, feed = Bulletin(database), Feed(database)
    turn = Turn(settings.database_wait_s)
    plane = Plane(database, blobs, board, feed, SteadyClock(SystemClock()), settings, turn)
    ensure(plane, document.get("bootstrap_keys", ()))
    return plane
