"""`roadworthy deploy | rollback | undeploy | logs | status`: change, watch and inspect endpoints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from roadworthy.cli.commands.policies import read_policy
from roadworthy.cli.commands.registry import endpoint_table, pending_text
from roadworthy.cli.commands.runners import confinement_line, local_confinement, local_runners, runner_table
from roadworthy.cli.home import Home
from roadworthy.cli.options import REQUIRED, RemoteOptions, argument, command, option
from roadworthy.cli.output import facts, say, short, show, table

if TYPE_CHECKING:
    from roadworthy.client import Client
    from roadworthy.client.client import EndpointChange
    from roadworthy.contract.api.endpoints import Endpoint
    from roadworthy.contract.api.system import GatewayStatus, Status
    from roadworthy.contract.telemetry import WorkerReport

_CELL_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class WaitOptions(RemoteOptions):
    """Options of commands that wait for a change."""

    wait: bool = option("--wait/--no-wait", "Wait until every worker serves the version.", True)
    timeout: float = option("--timeout", "Wait at most this long.", 300.0, metavar="SECONDS", min=0)


@dataclass(frozen=True, kw_only=True)
class DeployOptions(WaitOptions):
    """`deploy`."""

    reference: str = argument("VERSION", "A registered version, like flights:2.")
    endpoint: str = option("--endpoint", "Deploy to this endpoint; it is created if needed.", REQUIRED)
    policy: Path | None = option("--policy", "Change the policies in this .toml or .json file.", metavar="FILE")
    set_: list[str] | None = option("--set", "Change one policy, like cache.ttl_s=30; repeat for more.", metavar="NAME=VALUE")
    supersede: bool = option("--supersede", "End a rollout in progress and replace it.", False)


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(WaitOptions):
    """`rollback`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")


@dataclass(frozen=True, kw_only=True)
class EndpointOptions(RemoteOptions):
    """`undeploy`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")


@dataclass(frozen=True, kw_only=True)
class LogsOptions(RemoteOptions):
    """`logs`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")
    last: int = option("--last", "Show this many records.", 20, metavar="N", min=1, max=1000)
    prediction: str | None = option("--id", "Show only the prediction with this id.")


def deploy(options: DeployOptions) -> None:
    """Deploy a version to an endpoint.

    The workers load and prove the version while the current one serves, then switch. No request is dropped.
    """
    begun = time.monotonic()
    policy = read_policy(options.policy, options.set_ or ())
    with options.client() as client:
        change: EndpointChange = {} if policy is None else {"policy": policy}
        if options.supersede:
            change["supersede"] = True
        asked = client.deploy(options.reference, options.endpoint, **change)
        _finish(client, asked, options, begun)


def rollback(options: RollbackOptions) -> None:
    """Roll an endpoint back to its previous version."""
    begun = time.monotonic()
    with options.client() as client:
        _finish(client, client.rollback(options.endpoint), options, begun)


def _finish(client: Client, asked: Endpoint, options: WaitOptions, begun: float) -> None:
    told: list[str] = []

    def progress(endpoint: Endpoint) -> None:
        text = pending_text(endpoint.pending)
        if text is not None and text not in told and sys.stderr.isatty():
            told.append(text)
            say(f"{endpoint.name}: {text}")

    endpoint = client.wait(asked, timeout_s=options.timeout, progress=progress) if options.wait else asked
    if endpoint.pending is None and endpoint.state == "serving":
        text = f"{endpoint.name} serves {endpoint.version} (after {time.monotonic() - begun:.1f} s)"
    else:
        text = f"{endpoint.name}: {pending_text(endpoint.pending) or endpoint.state}"
    show(endpoint, text, as_json=options.json)


def undeploy(options: EndpointOptions) -> None:
    """Delete an endpoint. Its versions stay in the registry."""
    with options.client() as client:
        client.undeploy(options.endpoint)
    show({"name": options.endpoint, "deleted": True}, f"{options.endpoint} deleted", as_json=options.json)


def logs(options: LogsOptions) -> None:
    """Show the latest requests and answers of an endpoint."""
    with options.client() as client:
        page = client.logs(options.endpoint, last=options.last, prediction_id=options.prediction)
        if not page.items:
            client.endpoint(options.endpoint)  # an unknown endpoint is an error, an endpoint without predictions is not
    rows = [
        (
            item.time,
            item.id,
            item.version,
            item.status if item.code == "ok" else f"{item.status} {item.code}",
            f"{item.latency_ms:.1f} ms",
            item.rows,
            _cell(item.inputs),
            _cell(item.outputs),
        )
        for item in page.items
    ]
    headings = ("TIME", "ID", "VERSION", "STATUS", "LATENCY", "ROWS", "ASKED", "ANSWERED")
    show(page, table(headings, rows), as_json=options.json)
    if page.lost and not options.json:
        say(f"note: {page.lost} records were lost before they reached the control plane")
    damaged = page.unreadable
    if damaged.files and not options.json:
        say(f"note: {damaged.files} record files with {damaged.predictions} predictions are damaged or missing")


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _CELL_CHARACTERS else f"{line[: _CELL_CHARACTERS - 1]}…"


def status(options: RemoteOptions) -> None:
    """Show the control plane, gateways, endpoints and local runners."""
    from msgspec import to_builtins

    with options.client() as client:
        found = client.status()
    control = found.control
    head = facts({"control plane": control.version, "revision": f"{control.revision} of {control.epoch}"})
    gateways = [
        (
            gateway.id,
            "alive" if gateway.alive else "AWAY",
            gateway.seen_at,
            gateway.revision,
            len(gateway.workers),
            _states(gateway.workers) if gateway.alive else "unknown",
            gateway.lost_records,
            _sharing(gateway.workers),
        )
        for gateway in found.gateways
    ]
    headings = ("GATEWAY", "STATE", "SEEN", "REVISION", "WORKERS", "VERSIONS", "LOST RECORDS", "SHARED CACHE")
    seen = table(headings, gateways)
    placed = table(("GATEWAY", "DIGEST", "RUNTIME", "PLACEMENT", "WORKERS"), _placements(found.gateways))
    alerts = [f"alert: {alert.text} ({alert.code})\n  {alert.hint}" for alert in found.alerts]
    parts = [head, *alerts, seen, placed, endpoint_table(found.endpoints)]
    home = options.settings.general.home
    runners = local_runners(Home(home).gateway) if home.is_absolute() else []
    confinement = local_confinement(Home(home).gateway) if home.is_absolute() else None
    if confinement:
        parts.append(confinement_line(confinement))
    if runners:
        parts.append(runner_table(runners, found.endpoints))
    document = {**to_builtins(found), "runners": runners, "confinement": confinement}
    show(document, "\n\n".join(parts), as_json=options.json)
    for text in () if options.json else status_notes(found):
        say(f"note: {text}")


def status_notes(found: Status) -> list[str]:
    """Notes that the operator should read: lost data, and gateways that follow another database."""
    control, notes = found.control, []
    lines = control.log_lines_dropped
    for gateway in found.gateways:
        workers = gateway.workers
        lines += max((worker.log_lines_dropped for worker in workers), default=0)
        epochs = {worker.epoch for worker in workers if worker.epoch is not None} - {control.epoch}
        if gateway.alive and epochs:
            notes.append(
                f"gateway {gateway.id} follows another database (epoch {', '.join(sorted(epochs))}). If that persists, "
                "restore that database, or start the gateway with --begin-anew to follow this one"
            )
    if found.packages_gone:
        notes.append(
            f"the bytes of {', '.join(found.packages_gone)} are missing from the blob store; push the same packages again"
        )
    if found.webhooks.lost:
        notes.append(
            f"{found.webhooks.lost} events were deleted before a webhook received them; `roadworthy webhook list` shows which"
        )
    if lines:
        notes.append(f"{lines} log lines were dropped because the reader of the log was too slow")
    return notes


def _placements(gateways: Sequence[GatewayStatus]) -> list[tuple[object, ...]]:
    """Where each ready version executes, with the number of workers. A gateway that is away is left out."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for gateway in (each for each in gateways if each.alive):
        for worker in gateway.workers:
            for version in worker.versions:
                if version.state == "READY":
                    placement = version.placement or "-"
                    line = (gateway.id, short(version.digest), version.runtime or "-", placement)
                    counts[line] = counts.get(line, 0) + 1
    return [(*line, count) for line, count in counts.items()]


def _sharing(workers: Sequence[WorkerReport]) -> str | None:
    """The state of the workers' shared cache with counts; None without a shared cache."""
    said = [worker.shared_cache for worker in workers]
    counts = {state: said.count(state) for state in sorted({state for state in said if state is not None})}
    return ", ".join(f"{state} ({count} of {len(said)})" for state, count in counts.items()) or None


def _states(workers: Sequence[WorkerReport]) -> str:
    counts: dict[str, int] = {}
    for worker in workers:
        for version in worker.versions:
            counts[version.state] = counts.get(version.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "deploy")(deploy)
    command(app, "rollback")(rollback)
    command(app, "undeploy")(undeploy)
    command(app, "logs")(logs)
    command(app, "status")(status)
