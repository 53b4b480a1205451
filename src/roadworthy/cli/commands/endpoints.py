"""`roadworthy deploy | rollback | undeploy | logs | status`: change, watch and inspect endpoints."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from roadworthy.cli.commands.policies import read_policy
from roadworthy.cli.commands.registry import endpoint_table, pending_text
from roadworthy.cli.commands.runners import confinement_line, local_confinement, local_runners, runner_table
from roadworthy.cli.home import Home
from roadworthy.cli.options import REQUIRED, RemoteOptions, argument, command, option
from roadworthy.cli.output import facts, say, short, show, table

if TYPE_CHECKING:
    from roadworthy.client.client import EndpointChange

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


def _finish(client: Any, asked: Mapping[str, Any], options: WaitOptions, begun: float) -> None:
    told: list[str] = []

    def progress(document: Mapping[str, Any]) -> None:
        text = pending_text(document.get("pending"))
        if text is not None and text not in told and sys.stderr.isatty():
            told.append(text)
            say(f"{document['name']}: {text}")

    document = client.wait(asked, timeout_s=options.timeout, progress=progress) if options.wait else asked
    if document.get("pending") is None and document.get("state") == "serving":
        text = f"{document['name']} serves {document['version']} (after {time.monotonic() - begun:.1f} s)"
    else:
        text = f"{document['name']}: {pending_text(document.get('pending')) or document.get('state')}"
    show(document, text, as_json=options.json)


def undeploy(options: EndpointOptions) -> None:
    """Delete an endpoint. Its versions stay in the registry."""
    with options.client() as client:
        client.undeploy(options.endpoint)
    show({"name": options.endpoint, "deleted": True}, f"{options.endpoint} deleted", as_json=options.json)


def logs(options: LogsOptions) -> None:
    """Show the latest requests and answers of an endpoint."""
    with options.client() as client:
        page = client.logs(options.endpoint, last=options.last, prediction_id=options.prediction)
        if not page["items"]:
            client.endpoint(options.endpoint)  # an unknown endpoint is an error, an endpoint without predictions is not
    rows = [
        (
            item["time"],
            item["id"],
            item.get("version"),
            item["status"] if item["code"] == "ok" else f"{item['status']} {item['code']}",
            f"{item['latency_ms']:.1f} ms",
            item["rows"],
            _cell(item.get("inputs")),
            _cell(item.get("outputs")),
        )
        for item in page["items"]
    ]
    headings = ("TIME", "ID", "VERSION", "STATUS", "LATENCY", "ROWS", "ASKED", "ANSWERED")
    show(page, table(headings, rows), as_json=options.json)
    if page.get("lost") and not options.json:
        say(f"note: {page['lost']} records were lost before they reached the control plane")
    damaged = page.get("unreadable") or {}
    if damaged.get("files") and not options.json:
        say(f"note: {damaged['files']} record files with {damaged['predictions']} predictions are damaged or missing")


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _CELL_CHARACTERS else f"{line[: _CELL_CHARACTERS - 1]}…"


def status(options: RemoteOptions) -> None:
    """Show the control plane, gateways, endpoints and local runners."""
    with options.client() as client:
        document = client.status()
    control = document["control"]
    head = facts({"control plane": control["version"], "revision": f"{control['revision']} of {control['epoch']}"})
    gateways = [
        (
            gateway["id"],
            "alive" if _is_alive(gateway) else "AWAY",
            gateway.get("seen_at"),
            gateway.get("revision"),
            len(gateway.get("workers") or ()),
            _states(gateway.get("workers") or ()) if _is_alive(gateway) else "unknown",
            gateway.get("lost_records"),
            _sharing(gateway.get("workers") or ()),
        )
        for gateway in document["gateways"]
    ]
    headings = ("GATEWAY", "STATE", "SEEN", "REVISION", "WORKERS", "VERSIONS", "LOST RECORDS", "SHARED CACHE")
    seen = table(headings, gateways)
    placed = table(("GATEWAY", "DIGEST", "RUNTIME", "PLACEMENT", "WORKERS"), _placements(document["gateways"]))
    alerts = [f"alert: {alert['text']} ({alert['code']})\n  {alert['hint']}" for alert in document.get("alerts") or ()]
    parts = [head, *alerts, seen, placed, endpoint_table(document["endpoints"])]
    home = options.settings.general.home
    document["runners"] = local_runners(Home(home).gateway) if home.is_absolute() else []
    document["confinement"] = local_confinement(Home(home).gateway) if home.is_absolute() else None
    if document["confinement"]:
        parts.append(confinement_line(document["confinement"]))
    if document["runners"]:
        parts.append(runner_table(document))
    show(document, "\n\n".join(parts), as_json=options.json)
    for text in () if options.json else status_notes(document):
        say(f"note: {text}")


def status_notes(document: Mapping[str, Any]) -> list[str]:
    """Notes that the operator should read: lost data, and gateways that follow another database."""
    control, notes = document["control"], []
    lines = control.get("log_lines_dropped") or 0
    for gateway in document["gateways"]:
        workers = gateway.get("workers") or ()
        lines += max((worker.get("log_lines_dropped") or 0 for worker in workers), default=0)
        epochs = {worker.get("epoch") for worker in workers} - {None, control["epoch"]}
        if gateway.get("alive") and epochs:
            notes.append(
                f"gateway {gateway['id']} follows another database (epoch {', '.join(sorted(epochs))}). If that persists, "
                "restore that database, or start the gateway with --begin-anew to follow this one"
            )
    if gone := document.get("packages_gone"):
        notes.append(f"the bytes of {', '.join(gone)} are missing from the blob store; push the same packages again")
    if lost := (document.get("webhooks") or {}).get("lost"):
        notes.append(f"{lost} events were deleted before a webhook received them; `roadworthy webhook list` shows which")
    if lines:
        notes.append(f"{lines} log lines were dropped because the reader of the log was too slow")
    return notes


def _is_alive(gateway: dict[str, Any]) -> bool:
    """Whether the gateway reports. Control planes of earlier releases do not send `alive`."""
    return bool(gateway.get("alive", True))


def _placements(gateways: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Where each ready version executes, with the number of workers. A gateway that is away is left out."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for gateway in filter(_is_alive, gateways):
        for worker in gateway.get("workers") or ():
            for version in worker.get("versions") or ():
                if version["state"] == "READY":
                    placement = version.get("placement") or "-"
                    line = (gateway["id"], short(version["digest"]), version.get("runtime") or "-", placement)
                    counts[line] = counts.get(line, 0) + 1
    return [(*line, count) for line, count in counts.items()]


def _sharing(workers: Sequence[dict[str, Any]]) -> str | None:
    """The state of the workers' shared cache with counts; None without a shared cache."""
    said = [worker.get("shared_cache") for worker in workers]
    counts = {state: said.count(state) for state in sorted({state for state in said if state is not None})}
    return ", ".join(f"{state} ({count} of {len(said)})" for state, count in counts.items()) or None


def _states(workers: Sequence[dict[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for worker in workers:
        for version in worker.get("versions") or ():
            counts[version["state"]] = counts.get(version["state"], 0) + 1
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "deploy")(deploy)
    command(app, "rollback")(rollback)
    command(app, "undeploy")(undeploy)
    command(app, "logs")(logs)
    command(app, "status")(status)
