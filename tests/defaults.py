"""The settings of a machine without any configuration, for the start documents of processes that tests start themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadworthy.settings import Settings, load_settings


def default_settings() -> Settings:
    """Every setting at its default."""
    nowhere = Path("/nonexistent")
    return load_settings(environment={"ROADWORTHY_HOME": str(nowhere)}, folder=nowhere)


def control_document(folder: Path, **more: Any) -> dict[str, Any]:
    """The start document of a control plane with its database and blobs in `folder`, and every other setting at its default."""
    control = default_settings().control
    return {
        "database_url": f"sqlite:///{folder / 'roadworthy.db'}",
        "blob_folder": str(folder / "blobs"),
        "max_package_bytes": control.max_package_bytes,
        "feedback_max_rows": control.feedback_max_rows,
        **more,
    }
