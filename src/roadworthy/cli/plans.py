"""The supervisor's process plans: each with its start document, its sockets and its stage when all are stopped."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from roadworthy.foundation import plugins
from roadworthy.foundation.confine.plan import confined
from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.memory import total_bytes
from roadworthy.foundation.sockets import LOOPBACK_HOSTS
from roadworthy.settings import Settings
from roadworthy.supervisor.plan import ChildPlan, Orders, WorkerLimits

MOST_WORKERS = 4
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - recognised, not bound
# Workers stop first and hand over their records. No one uses the runners after that. The agent then ships the records to the
# control plane, which stops last.
_WORKERS, _RUNNERS, _AGENT, _CONTROL = range(4)
_RUNNER = tuple(confined((sys.executable, "-P", "-m", "roadworthy.runtime.runners.isolated")))
STILL_S = 10.0
"""Seconds without a heartbeat after which agent or control plane is restarted; workers have their heartbeat in the slab."""
_LEAST_WORKER_BYTES = 1 << 30
_WORKERS_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """A gateway to start.

    Attributes:
        name: the name under which it reports.
        folder: its own folder.
        listener, metrics: bound sockets, for predictions and for the metrics page.
        control_url, key: of the control plane; None serves the snapshot on disk.
        give_up_epoch: the gateway may replace endpoints of this epoch by an empty snapshot of another epoch.
    """

    name: str
    folder: Path
    listener: socket.socket
    metrics: socket.socket
    control_url: str | None = None
    key: str | None = None
    give_up_epoch: str | None = None

    @property
    def slab(self) -> Path:
        """The file of the workers' slab."""
        return private_folder(private_folder(self.folder) / "run") / "slab"


def gateway_children(plan: GatewayPlan, settings: Settings, log_level: str) -> list[ChildPlan]:
    """Plans of the agent and the workers. Workers start with the snapshot on disk and do not wait for the agent."""
    _allow_plugins(settings)
    agent: dict[str, Any] = {
        "gateway": plan.name,
        "folder": str(plan.folder),
        "control_url": plan.control_url,
        "key": plan.key,
        "slab": str(plan.slab),
        "metrics_fd": plan.metrics.fileno(),
        **agent_options(settings),
        "give_up_epoch": plan.give_up_epoch,
        **_bounds(settings),
        "log_level": log_level,
    }
    worker: dict[str, Any] = {
        "folder": str(plan.folder),
        "fd": plan.listener.fileno(),
        "slab": str(plan.slab),
        **worker_options(settings),
        "log_level": log_level,
        "cache_url": _checked_cache(settings.gateway.cache_url),
        "runners": True,
        "confinement": settings.general.confinement,
    }
    workers = [
        _child("roadworthy.gateway.worker", f"worker-{slot}", {**worker, "slot": slot}, _WORKERS, None)
        for slot in range(worker_count(settings))
    ]
    orders = Orders((_RUNNER,), _RUNNERS)  # the agent may start runner processes, and nothing else
    return [*workers, replace(_child("roadworthy.agent", "agent", agent, _AGENT), orders=orders)]


def agent_options(settings: Settings) -> dict[str, Any]:
    """What an agent's start document takes from the settings as they are."""
    gateway = settings.gateway
    return {
        "metrics_host": gateway.metrics_host,
        "record_max_bytes": gateway.record_max_bytes,
        "disk_reserve_bytes": gateway.disk_reserve_mb << 20,
        "crashes_to_quarantine": gateway.crashes_to_quarantine,
        "growth_mb": gateway.growth_mb,
        "log_level": settings.log.level,
    }


def worker_options(settings: Settings) -> dict[str, Any]:
    """What a worker's start document takes from the settings as they are."""
    gateway = settings.gateway
    return {
        "threads": gateway.threads,
        "allowed_hosts": known_hosts(gateway.host, gateway.allowed_hosts),
        "log_level": settings.log.level,
        "default_endpoint": gateway.default_endpoint,
        "access_log": gateway.access_log,
        "golden_probe_s": gateway.golden_probe_s or None,
        "memory_close_share": gateway.memory_close_share,
        "memory_refuse_share": gateway.memory_refuse_share,
        "disk_reserve_mb": gateway.disk_reserve_mb,
        "drain_delay_s": gateway.drain_delay_s,
        "cache_wait_ms": gateway.cache_wait_ms,
    }


def _checked_cache(url: str | None) -> str | None:
    """The shared cache's address. Checks here that its client is installed, so that the command fails instead of a worker."""
    if url is not None and find_spec("redis") is None:
        raise SettingsError(
            "gateway.cache_url is set, but the client for Redis is not installed",
            code="requirement-missing",
            hint='pip install "roadworthy[redis]"',
        )
    return url


def _allow_plugins(settings: Settings) -> None:
    """Let the children load the plug-ins that the settings name.

    Raises:
        SettingsError: "requirement-missing": one of the distributions is not installed here.
    """
    missing = plugins.missing_distributions(settings.general.plugins)
    if missing:
        raise SettingsError(
            f"general.plugins names {', '.join(missing)}, which is not installed here",
            code="requirement-missing",
            hint=f"pip install {' '.join(missing)}, or take the name out of the setting",
        )
    plugins.allow(settings.general.plugins)


def worker_limits(settings: Settings) -> WorkerLimits:
    """Limits of one worker: memory as configured, else an equal share of 60 % of the machine's memory."""
    most_mb, total = settings.gateway.worker_memory_mb, total_bytes()
    if most_mb is not None:
        most: int | None = most_mb << 20
    elif total is not None:
        most = max(_LEAST_WORKER_BYTES, int(_WORKERS_SHARE * total) // worker_count(settings))
    else:
        most = None
    gateway = settings.gateway
    growth, members = gateway.growth_mb << 20 or None, gateway.embedded_processes
    return WorkerLimits(hang_s=gateway.worker_hang_s, memory_bytes=most, growth_bytes=growth, members=members)


def control_child(
    folder: Path, listener: socket.socket, settings: Settings, bootstrap_keys: Sequence[dict[str, Any]], log_level: str
) -> ChildPlan:
    """Plan of the control plane."""
    _allow_plugins(settings)
    control = settings.control
    document: dict[str, Any] = {
        "host": control.host,
        "port": port_of(listener),
        "fd": listener.fileno(),
        "database_url": database_url(settings, folder),
        "blob_folder": str(control.blob_folder or folder / "blobs"),
        "blob_url": control.blob_url,
        "bootstrap_keys": list(bootstrap_keys),
        "allowed_hosts": known_hosts(control.host, control.allowed_hosts),
        "log_level": log_level,
        "max_package_bytes": control.max_package_bytes,
        "feedback_max_rows": control.feedback_max_rows,
        "webhook_networks": list(control.webhook_networks),
        **_bounds(settings),
    }
    return _child("roadworthy.control", "control", document, _CONTROL)


def _bounds(settings: Settings) -> dict[str, Any]:
    """Settings that confine the code of packages."""
    private = [str(path) for path in private_paths(settings)]
    general = settings.general
    return {"confinement": general.confinement, "grants": list(general.grants), "private": private}


def private_paths(settings: Settings) -> tuple[Path, ...]:
    """Folders and files that the code of packages must not read: they hold keys, packages and records."""
    url = settings.control.database_url or ""
    database = url.partition("?")[0].partition("///")[2] if url.startswith("sqlite") else ""
    scheme, _, blobs = (settings.control.blob_url or "").partition(":")
    named = (
        settings.general.home,
        settings.file,
        settings.control.blob_folder,
        blobs if scheme == "folder" else "",
        database,
        database and f"{database}-wal",
    )
    return tuple(Path(each).absolute() for each in named if each)


def database_url(settings: Settings, folder: Path) -> str:
    """URL of the control plane's database: as configured, else a file in its own folder."""
    return settings.control.database_url or f"sqlite:///{folder / 'roadworthy.db'}"


def _child(module: str, name: str, document: dict[str, Any], stage: int, still_s: float | None = STILL_S) -> ChildPlan:
    descriptors = tuple(document[key] for key in ("fd", "metrics_fd") if key in document)
    document = {**document, **plugins.start_member()}
    # -P: a file in the working directory must not replace a module of ours
    return ChildPlan(name, (sys.executable, "-P", "-m", module), document, descriptors, stage=stage, still_s=still_s)


def worker_count(settings: Settings) -> int:
    """Number of workers: as configured, else one for each usable core up to MOST_WORKERS."""
    return settings.gateway.workers or max(1, min(MOST_WORKERS, _usable_cores()))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def known_hosts(host: str, configured: tuple[str, ...] | None) -> list[str]:
    """Accepted values of the Host header: loopback names, the listening address or the machine's name, and configured names."""
    own = [f"[{host}]" if ":" in host else host] if host not in _EVERYWHERE else [socket.gethostname().lower()]
    return list(dict.fromkeys([*LOOPBACK_HOSTS, *own, *(configured or ())]))


def hosts_note(plane: str, host: str, configured: tuple[str, ...] | None) -> str | None:
    """A note for the operator of a server that listens on all addresses but accepts only some host names; None otherwise."""
    known = known_hosts(host, configured)
    if host not in _EVERYWHERE or "*" in known:
        return None
    return (
        f"note: the {plane} listens on all addresses and accepts the host names {', '.join(known)}; requests for other hosts get "
        f"400, except probes. Set {plane}.allowed_hosts (ROADWORTHY_{plane.upper()}_ALLOWED_HOSTS) to accept more"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    return host in (*LOOPBACK_HOSTS, "::1") or host.startswith("127.")


def port_of(listener: socket.socket) -> int:
    """The port of a bound socket."""
    return int(listener.getsockname()[1])


def url_of(host: str, listener: socket.socket) -> str:
    """The URL by which this machine reaches a socket."""
    shown = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port_of(listener)}"
