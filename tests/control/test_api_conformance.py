"""Every route answers as the API's description says, to valid and invalid requests: schemathesis, with all of its checks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from roadworthy.control.wiring import build_context
from tests.control.description import describe
from tests.control_plane import ControlProcess
from tests.defaults import control_document

if TYPE_CHECKING:
    from schemathesis.config import SchemathesisConfig

EXAMPLES = 4
"""Of each operation and kind. They are the same ones in every run."""

COLON = "the reply for a path with a colon lists the methods of its other reading, as a name, and no name contains a colon"
EXPLAINED = {
    (
        "positive_data_acceptance",
        "POST /api/v1/packages",
    ): "the body is a package; its own format is described elsewhere",
    (
        "positive_data_acceptance",
        "POST /api/v1/webhooks",
    ): "the name in a URL has to be known, and to lead where webhooks may go",
    (
        "positive_data_acceptance",
        "POST /api/v1/endpoints/{name}/rollouts",
    ): "docs/rollouts.md says what a plan may hold",
    (
        "positive_data_acceptance",
        "POST /internal/v1/telemetry",
    ): "counts have to go together, and to be of a known format",
    ("unsupported_method", "POST /api/v1/endpoints/{name}:rollback"): COLON,
    ("allow_header_conformance", "POST /api/v1/endpoints/{name}:rollback"): COLON,
    ("allow_header_conformance", "POST /api/v1/endpoints/{name}/rollouts/{rollout_id}:{command}"): COLON,
    ("allow_header_conformance", "POST /api/v1/webhooks/{webhook_id}:test"): COLON,
}
"""Check and operation: why it may fail there."""


@pytest.fixture
def seed(three_lines: Path) -> Path:
    """Push three versions of `line`."""
    return three_lines


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """The description of all routes, with names of existing objects."""
    context = build_context(control_document(tmp_path))
    described = describe(context)
    context.database.close()
    frame = described["components"]["schemas"]["Telemetry"]["properties"]
    for part in (
        "workers",
        "rollouts",
        "run_times",
        "counts",
    ):  # thousands of ways to be wrong, all told by one decoder
        frame[part] = {"type": "array", "maxItems": 0}
    for methods in described["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] in ("name", "version"):
                    parameter["example"] = {"name": "line", "version": 1}[parameter["name"]]
    return described


def _config(control: ControlProcess) -> SchemathesisConfig:
    from schemathesis.config import SchemathesisConfig

    generation = {"max-examples": EXAMPLES, "deterministic": True, "no-shrink": True, "database": "none"}
    roles = {"/internal/": control.gateway_key, "/api/": control.admin_key}
    return SchemathesisConfig.from_dict(
        {
            "base-url": control.url,
            "continue-on-failure": True,
            "suppress-health-check": ["all"],
            "generation": generation,
            "parameters": {"wait_s": 0},
            "checks": {"enabled": True},
            "operations": [
                {"include-path-regex": f"^{start}", "headers": {"Authorization": f"Bearer {key}"}} for start, key in roles.items()
            ],
        }
    )


def test_g18_every_route_does_what_it_says(control: ControlProcess, document: dict[str, Any]) -> None:
    """Every failure is explained, and every explanation is needed."""
    import schemathesis  # here, since every pytest process imports every test file
    from schemathesis.engine import events, from_schema

    schema = schemathesis.openapi.from_dict(document, config=_config(control))
    failures: Counter[tuple[str, str]] = Counter()
    told: dict[tuple[str, str], str] = {}
    asked: set[str] = set()
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorder = event.recorder
        asked |= {node.value.operation.label for node in recorder.cases.values()}
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is None:
                    continue
                where = (check.name, recorder.cases[case_id].value.operation.label)
                failures[where] += 1
                told.setdefault(where, f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}")
    assert asked == {f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each}
    unexplained = {where: told[where] for where in failures if where not in EXPLAINED}
    assert not unexplained, "\n\n".join(f"{where}: {text}" for where, text in unexplained.items())
    assert not EXPLAINED.keys() - failures.keys()
