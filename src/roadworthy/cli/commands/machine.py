"""`roadworthy up | gateway | control | stop`: run the control plane and a gateway on this machine, together or separately."""

from __future__ import annotations

import os
import platform
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from roadworthy.cli import detach as detaching
from roadworthy.cli.home import CONTROL, GATEWAY, LOCAL, SUPERVISOR, Context, Home, PlaneKeys
from roadworthy.cli.launch import Launch, control_socket, gateway_listeners, gateway_sockets, probe, run, tell
from roadworthy.cli.options import Options, command, option
from roadworthy.cli.output import facts, quiet_children, say, show
from roadworthy.cli.plans import GatewayPlan, control_child, gateway_children, url_of, worker_limits
from roadworthy.foundation.descendants import Process, is_running
from roadworthy.foundation.errors import RoadworthyError, SettingsError, Unavailable
from roadworthy.settings import GATEWAY_URL, Settings
from roadworthy.supervisor.listener import SharedListener
from roadworthy.supervisor.plan import ChildPlan

_STOP_STEP_S = 0.05
_GONE_S = 5.0
_READY_TIMEOUT_S = 60.0
"""Longest wait for the probes of `up`; a version that cannot be loaded must not delay it further."""
_REFUSED = (401, 403)
_SHOWN_ONCE = "the admin key is shown only this once; this machine's command line reads it from the home folder"
_NONE_MADE = "the database already has admin keys, so no new one was created"
_NOT_KNOWN = "the database does not accept the admin key of this home folder"
_GET_ONE = (
    "Create one with `roadworthy key create --role admin` where an admin key is at hand, or with `roadworthy key recover` on "
    "this machine, and give it to this command line as ROADWORTHY_KEY"
)


@dataclass(frozen=True, kw_only=True)
class BeginAnewOptions(Options):
    """Options of commands that may switch to another database."""

    begin_anew: bool = option(
        "--begin-anew",
        "Accept a new or different control plane database, and drop the endpoints of the previous one.",
        False,
    )


@dataclass(frozen=True, kw_only=True)
class GatewayOptions(Options):
    """Options of commands that run a gateway."""

    host: str | None = option("--host", "Listen for predictions on this address (127.0.0.1).", sets="gateway.host")
    port: int | None = option("--port", "Listen for predictions on this port (8080).", sets="gateway.port")
    metrics_port: int | None = option(
        "--metrics-port", "Serve the metrics page on this port (8082).", sets="gateway.metrics_port"
    )
    workers: int | None = option("--workers", "Run this many worker processes (usable cores, at most 4).", sets="gateway.workers")


@dataclass(frozen=True, kw_only=True)
class UpOptions(GatewayOptions, BeginAnewOptions):
    """`up`."""

    control_port: int | None = option("--control-port", "Run the control plane on this port (8081).", sets="control.port")
    detach: bool = option("--detach -d", "Return when it is ready, and leave it running.", False)
    ready_fd: int | None = option("--ready-fd", "", hidden=True)


@dataclass(frozen=True, kw_only=True)
class GatewayCommandOptions(GatewayOptions, BeginAnewOptions):
    """`gateway`."""

    control_url: str | None = option(
        "--control-url",
        "Follow the control plane at this address; without one, serve the snapshot on disk.",
        sets="client.control_url",
    )
    key_file: Path | None = option("--key-file", "Read a key of the role gateway from this file (or ROADWORTHY_KEY).")
    name: str | None = option("--name", "Report under this instance name.", sets="gateway.name")


@dataclass(frozen=True, kw_only=True)
class ControlOptions(BeginAnewOptions):
    """`control`."""

    host: str | None = option("--host", "Listen on this address (127.0.0.1).", sets="control.host")
    port: int | None = option("--port", "Listen on this port (8081).", sets="control.port")


@dataclass(frozen=True, kw_only=True)
class StopOptions(Options):
    """`stop`."""

    timeout: float = option("--timeout", "Wait at most this long.", 90.0, metavar="SECONDS", min=0)


def up(options: UpOptions) -> None:
    """Run a control plane and a gateway on this machine.

    Runs until Ctrl-C. With -d it returns when both are ready, and `roadworthy stop` stops them.
    """
    settings = options.settings
    home = Home(settings.general.home_folder())
    if options.detach:
        _announce(detaching.detach(_again(options), home.log), as_json=options.json)
        return
    with (
        _telling(options.ready_fd),
        home.held(SUPERVISOR, CONTROL, GATEWAY),
        gateway_sockets(settings) as sockets,
        control_socket(settings, "--control-port") as control,
    ):
        keys = home.keys(own_gateway=True)
        level = quiet_children(settings)
        urls = Context(url_of(settings.control.host, control), url_of(settings.gateway.host, sockets[0]), keys.admin)
        home.write_context(urls)
        name = settings.gateway.name or LOCAL
        plan = GatewayPlan(name, home.gateway, *sockets, control_url=urls.control_url, key=keys.gateway)
        plan = replace(plan, give_up_epoch=_served_epoch(home, options))
        children = gateway_children(plan, settings, level)
        planned = control_child(home.control, control, settings, keys.bootstrap(), level)
        served = home.snapshot()
        children.append(replace(_expecting(planned, home, options), needed=served is None or served[1] == 0))
        message = _message(urls, url_of(settings.gateway.metrics_host, sockets[1]))

        def announce() -> None:
            told = {**message, **settle_keys(home, keys, urls.control_url)}
            tell(options.ready_fd, told) if options.ready_fd is not None else _announce(told, as_json=options.json)

        probes = (f"{urls.control_url}/readyz", f"{urls.gateway_url}/readyz")
        limits = worker_limits(settings)
        optional = {probes[0]: planned.name}
        doors = [*gateway_listeners(sockets, settings), SharedListener(control, None)]
        run(
            Launch(
                children,
                plan.slab,
                probes,
                announce,
                limits,
                ready_timeout_s=_READY_TIMEOUT_S,
                doors=doors,
                optional=optional,
            )
        )


def gateway(options: GatewayCommandOptions) -> None:
    """Run a gateway without a control plane on this machine.

    It follows its control plane's snapshots. While that is away or not given, it serves the snapshot on disk.
    """
    settings = options.settings
    home = Home(settings.general.home_folder())
    key = _key_between(options.key_file, settings, home)
    if settings.client.control_url is not None and key is None:
        raise SettingsError(
            "the gateway has no key for its control plane",
            code="gateway-key-missing",
            hint="create one with `roadworthy key create --role gateway`, and give it as ROADWORTHY_KEY or --key-file",
        )
    with home.held(GATEWAY), gateway_sockets(settings) as sockets:
        name = settings.gateway.name or _machine_name()
        plan = GatewayPlan(name, home.gateway, *sockets, control_url=settings.client.control_url, key=key)
        plan = replace(plan, give_up_epoch=_served_epoch(home, options))
        url = url_of(settings.gateway.host, sockets[0])
        message = {"gateway": url, "metrics": f"{url_of(settings.gateway.metrics_host, sockets[1])}/metrics"}
        children = gateway_children(plan, settings, quiet_children(settings))
        doors = gateway_listeners(sockets, settings)

        def announce() -> None:
            _announce(message, as_json=options.json)

        run(Launch(children, plan.slab, [f"{url}/readyz"], announce, worker_limits(settings), doors=doors))


def control(options: ControlOptions) -> None:
    """Run a control plane without a gateway on this machine.

    Gateways connect to it with a key of the role gateway.
    """
    settings = options.settings
    home = Home(settings.general.home_folder())
    with home.held(CONTROL), control_socket(settings, "--port") as listener:
        keys = home.keys(own_gateway=False)
        known = home.context()
        url = url_of(settings.control.host, listener)
        home.write_context(Context(url, known.gateway_url if known else GATEWAY_URL, keys.admin))
        plan = control_child(home.control, listener, settings, keys.bootstrap(), quiet_children(settings))
        plan = _expecting(plan, home, options)

        def announce() -> None:
            _announce({"control": url, **settle_keys(home, keys, url)}, as_json=options.json)

        run(Launch([plan], None, [f"{url}/readyz"], announce, doors=[SharedListener(listener, None)]))


def stop(options: StopOptions) -> None:
    """Stop all processes of this home folder, and wait for them."""
    home = Home(options.settings.general.home_folder())
    asked = home.running()
    for pid in asked:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + options.timeout
    while home.running() & asked:
        if time.monotonic() > deadline:
            raise Unavailable(
                f"still running after {options.timeout:g} s",
                code="stop-timeout",
                hint="requests may still be in flight; run the command again: a second signal stops by force",
                facts={"pids": sorted(asked)},
            )
        time.sleep(_STOP_STEP_S)
    _wait_until_gone(asked)
    show({"stopped": sorted(asked)}, "stopped" if asked else "nothing was running", as_json=options.json)


def _wait_until_gone(pids: set[int]) -> None:
    """Wait until the processes have ended, which is shortly after they release their locks. The wait is bounded: without /proc, a
    process seems to run until its parent has reaped it, and in a container nothing may ever do that."""
    deadline = time.monotonic() + _GONE_S
    while any(map(_exists, pids)) and time.monotonic() < deadline:
        time.sleep(_STOP_STEP_S)


def _exists(pid: int) -> bool:
    return is_running(pid) and (Process.seen(pid) is not None or not Path("/proc/self").exists())


def _key_between(key_file: Path | None, settings: Settings, home: Home) -> str | None:
    if key_file is not None:
        return key_file.read_text(encoding="ascii").strip()
    if settings.origin("client.key") not in ("default", "context"):
        return settings.client.key
    return home.gateway_key()


def _expecting(plan: ChildPlan, home: Home, options: BeginAnewOptions) -> ChildPlan:
    """The control plane's plan with the epoch that is known here, and whether it may be given up. The flag counts once, since it
    names an epoch: a process that was started with it does not give up a database that is lost later."""
    epoch = home.known_epoch()
    told = {
        "epoch_file": str(home.epoch_file),
        "known_epoch": epoch,
        "give_up_epoch": epoch if options.begin_anew else None,
    }
    return replace(plan, document={**plan.document, **told})


def _served_epoch(home: Home, options: BeginAnewOptions) -> str | None:
    """The epoch whose endpoints the gateway may give up."""
    served = home.snapshot() if options.begin_anew else None
    return None if served is None else served[0]


def _machine_name() -> str:
    name = re.sub(r"[^a-z0-9-]+", "-", platform.node().lower()).strip("-")
    return name[:64].strip("-") or "gateway"


def _again(options: UpOptions) -> list[str]:
    """The arguments of the same `up`, which runs in the foreground of its own process."""
    flags = {
        "--home": options.home,
        "--host": options.host,
        "--port": options.port,
        "--metrics-port": options.metrics_port,
        "--workers": options.workers,
        "--control-port": options.control_port,
    }
    again = ["--begin-anew"] if options.begin_anew else []
    return ["up", *again, *(word for flag, value in flags.items() if value is not None for word in (flag, str(value)))]


@contextmanager
def _telling(descriptor: int | None) -> Iterator[None]:
    """Report an error to the waiting parent process, and raise it again."""
    try:
        yield
    except RoadworthyError as error:
        told = {"error": error.message, "class": type(error).__name__, "code": error.code, "hint": error.hint}
        tell(descriptor, told)
        raise


def _message(urls: Context, metrics: str) -> dict[str, object]:
    return {
        "gateway": urls.gateway_url,
        "control": urls.control_url,
        "api": f"{urls.control_url}/docs",
        "metrics": f"{metrics}/metrics",
    }


def settle_keys(home: Home, keys: PlaneKeys, url: str) -> dict[str, object]:
    """The new admin key, or a note that the database did not accept the offered one, for the announcement. A new key that was not
    accepted is deleted, and so is a revoked key of the local gateway: the next start creates another. An older admin key stays,
    since it may belong to another database."""
    refused = probe(f"{url}/internal/v1/snapshot", keys.gateway)[0] in _REFUSED
    if refused and (keys.own_gateway or keys.gateway_new):
        home.forget_gateway_key()
    status = probe(f"{url}/api/v1/keys", keys.admin)[0]
    if status not in _REFUSED:
        return {"admin_key": keys.admin} if keys.admin_new and status == 200 else {}
    if keys.admin_new:
        home.forget_admin_key()
    return {"note": f"{_NONE_MADE if keys.admin_new else _NOT_KNOWN}. {_GET_ONE}"}


_LABELS = {
    "gateway": "gateway",
    "control": "control plane",
    "api": "API page",
    "metrics": "metrics",
    "admin_key": "admin key",
}


def _announce(message: Mapping[str, Any], *, as_json: bool) -> None:
    text = facts({label: message.get(name) for name, label in _LABELS.items()})
    show(dict(message), f"Roadworthy is up\n{text}", as_json=as_json)
    note = _SHOWN_ONCE if "admin_key" in message else message.get("note")
    if note is not None and not as_json:
        say(f"note: {note}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "up")(up)
    command(app, "stop")(stop)
    command(app, "gateway")(gateway)
    command(app, "control")(control)
