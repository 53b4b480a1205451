"""All settings, their defaults and bounds, and the only code that reads the environment.

The command line calls `load_settings` and gives each process its own part. A stronger source overrides a weaker one. From weakest
to strongest: the defaults below, the context that `roadworthy up` wrote (addresses and key only), `roadworthy.toml`, the
environment (`ROADWORTHY_…`), flags. An empty variable of a setting that may be None counts as not set.

Loading opens no other file and changes nothing; it reports all faults at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from roadworthy.foundation.confine.grants import parse_grants
from roadworthy.foundation.documents import Bounds, Fault, Given, Reader
from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.plugins import distribution_name
from roadworthy.foundation.references import check_name

Level = Literal["debug", "info", "warning", "error"]
Confinement = Literal["required", "best-effort"]
FILE_NAME = "roadworthy.toml"
_SCHEME = re.compile(r"[a-z][a-z0-9-]*:")
Port = Annotated[int, Bounds(0, 65_535)]


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """Settings of every command."""

    home: Annotated[Path, Given(_path)] = Path("~/.roadworthy")
    """Private folder (mode 0700) for everything that Roadworthy stores on this machine."""
    debug: bool = False
    """Show the whole traceback of an error instead of one clear block."""
    confinement: Confinement = "required"
    """Whether code of packages may run on a machine that cannot fully confine it: "required" refuses to run it, "best-effort"
    runs it with as much confinement as the machine has."""

    grants: Annotated[tuple[str, ...], parse_grants] = ()
    """What the code of packages may be granted on this machine besides its own files: "read:/path", "device:/dev/name",
    "device:nvidia", "tcp:PORT", "network". The control plane and every gateway check their own setting."""

    plugins: Annotated[tuple[str, ...], _checked_plugins] = ()
    """Installed distributions whose plug-ins are loaded, such as "my-plugin". They execute in processes that hold keys."""

    def home_folder(self) -> Path:
        """`home`, checked before it is used.

        Raises:
            SettingsError: code "home-unknown".
        """
        if not self.home.is_absolute():  # "~" could not be resolved
            raise SettingsError(
                "this user has no home folder: HOME is not set, and the system has no entry for the user",
                code="home-unknown",
                hint="set ROADWORTHY_HOME to a folder that this user may write, or name one with --home",
            )
        return self.home


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Addresses of the control plane and the gateway for commands, `rw.load` and `rw.Client`."""

    control_url: Annotated[str, _checked_url] | None = None
    """Address of the control plane, http:// or https://. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8081."""
    gateway_url: Annotated[str, _checked_url] | None = None
    """Address of the gateway. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8080."""
    key: str | None = field(default=None, repr=False)
    """API key. None: the one that `roadworthy up` wrote; it is sent only to the addresses that `up` wrote."""
    timeout_s: Annotated[float, Bounds(0.001, 86_400)] = 60.0
    """Timeout of one request, in seconds."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The data plane of this machine."""

    name: Annotated[str, _checked_gateway_name] | None = None
    """Name of this gateway, appended to the name of its key. None: "local" for `up`, otherwise derived from the host's name."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8080
    """Port for predictions; 0 takes a free one."""
    workers: Annotated[int, Bounds(1, 256)] | None = None
    """Worker processes. None: as many as usable cores, at most 4."""
    threads: Annotated[int, Bounds(1, 1_024)] = 1
    """Threads of each native pool in a worker."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus page."""
    metrics_port: Port = 8082
    """Port of the Prometheus page; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] | None = None
    """Hosts that the Host header may name, in addition to loopback and the address listened on (this machine's name, when the
    gateway listens on all addresses). "*" allows any host. Probes are answered for any host."""
    default_endpoint: Annotated[str, _checked_endpoint] | None = None
    """Endpoint that answers on paths without a name, such as MLflow's /invocations. None: the gateway's only endpoint, and none
    while it has several."""
    access_log: bool = False
    """Whether to log each request."""
    golden_probe_s: Annotated[float, Bounds(0, 86_400)] = 30.0
    """Seconds between two golden probes of each version on the live path. 0 switches them off."""
    memory_close_share: Annotated[float, Bounds(0.1, 1)] = 0.92
    """Share of the machine's memory in use at which replies close their connections. 1 switches this off."""
    memory_refuse_share: Annotated[float, Bounds(0.1, 1)] = 0.95
    """Share of the machine's memory in use at which new predictions are refused. 1 switches this off."""
    disk_reserve_mb: Annotated[int, Bounds(0, 1 << 24)] = 256
    """Free space in MiB below which the disk counts as short: a warning is logged, and records are dropped and counted. 0
    switches this off."""
    drain_delay_s: Annotated[float, Bounds(0, 600)] = 0.0
    """Seconds for which a stopping worker still accepts connections after its readiness probe has begun to fail: as long as a
    load balancer takes to notice. 0 on a single machine, some seconds behind a load balancer."""
    worker_hang_s: Annotated[float, Bounds(2, 3_600)] = 15.0
    """Seconds without a sign of life after which a worker is killed and restarted."""
    worker_memory_mb: Annotated[int, Bounds(64, 1 << 24)] | None = None
    """Memory of a worker in MiB above which it is replaced without dropping requests. None: an equal part of 60 % of the
    machine's memory, at least 1 GiB."""
    growth_mb: Annotated[int, Bounds(0, 1 << 24)] = 1_024
    """Growth in MiB of a worker's or runner process's own memory since its first minute, above which it is replaced without
    dropping requests. 0 switches this off."""
    crashes_to_quarantine: Annotated[int, Bounds(1, 1_000)] = 3
    """Crashes within ten minutes after which a version is quarantined for an hour."""
    cache_url: Annotated[str, _checked_cache_url] | None = field(default=None, repr=False)
    """Redis server through which all workers and machines share cached answers: redis://, rediss:// (TLS) or unix://. None: each
    worker has only its own cache."""
    cache_wait_ms: Annotated[float, Bounds(1, 1_000)] = 20.0
    """Longest time, in milliseconds, that a request waits for that server."""
    record_max_bytes: Annotated[int, Bounds(0, 1 << 50)] = 5 << 30
    """Bytes that prediction records may take on disk, spooled and in files; beyond it the oldest are deleted and counted."""
    embedded_processes: Annotated[int, Bounds(0, 64)] = 8
    """Number of processes with embedded endpoints that may join this gateway at a time. Each takes 2 MB of disk. 0: none."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control plane."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8081
    """Port of the management API; 0 takes a free one."""
    database_url: str | None = field(default=None, repr=False)
    """SQLAlchemy address of the database. None: SQLite in the home folder."""
    blob_folder: Annotated[Path, Given(_path)] | None = None
    """Where packages and record files are kept. None: in the home folder."""
    blob_url: Annotated[str, _checked_blob_url] | None = field(default=None, repr=False)
    """A store of a plug-in where packages and record files are kept instead. Its scheme names the plug-in, as in s3://bucket.
    Files that are being received lie in `blob_folder` until the store has them."""
    allowed_hosts: tuple[str, ...] | None = None
    """Hosts that the Host header may name, in addition to loopback and the address listened on (this machine's name, when the
    control plane listens on all addresses). "*" allows any host. Probes are answered for any host."""
    max_package_bytes: Annotated[int, Bounds(1, 1 << 50)] = 4 << 30
    """Largest package that may be pushed, in bytes."""
    feedback_max_rows: Annotated[int, Bounds(0, 1 << 40)] = 5_000_000
    """Rows of feedback to keep. Beyond it the feedback of whole rollouts is deleted, the earliest to end first, and they
    accept no further feedback."""
    webhook_networks: Annotated[tuple[str, ...], _checked_networks] = ()
    """Private networks, such as 127.0.0.0/8 or 10.1.0.0/16, that webhooks may call, with plain http as well."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs of all processes, JSON lines on standard error."""

    level: Annotated[Level, Given(_lowered)] = "info"
    """Lowest level that is logged: debug, info, warning or error."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, and where each `group.name` that is not a default came from."""

    general: GeneralSettings
    client: ClientSettings
    gateway: GatewaySettings
    control: ControlSettings
    log: LogSettings
    origins: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    """Environment variables that begin with ROADWORTHY_ and are no setting."""
    file: Path | None = None
    """The file that was read."""

    def origin(self, name: str) -> str:
        """Where `group.name` came from: "default", "context", a file, a variable or a flag."""
        return self.origins.get(name, "default")

    def entries(self) -> Iterator[tuple[str, object]]:
        """Every (`group.name`, value), in the order of docs/settings.md."""
        for group in GROUPS:
            for entry in dataclasses.fields(GROUPS[group]):
                yield f"{group}.{entry.name}", getattr(getattr(self, group), entry.name)


GATEWAY_URL = f"http://127.0.0.1:{GatewaySettings().port}"
CONTROL_URL = f"http://127.0.0.1:{ControlSettings().port}"
"""Where commands and clients look when no setting and no `roadworthy up` named an address."""
GROUPS: Mapping[str, type[Any]] = {
    "general": GeneralSettings,
    "client": ClientSettings,
    "gateway": GatewaySettings,
    "control": ControlSettings,
    "log": LogSettings,
}
SECRET = frozenset({"client.key", "control.blob_url", "control.database_url", "gateway.cache_url"})
_SHORT = frozenset({"general", "client"})
"""Groups whose variables carry no group name: ROADWORTHY_HOME, ROADWORTHY_KEY."""
_ALSO_KNOWN = frozenset({"ROADWORTHY_CONFIG"})


_RENAMED = {"gateway.deep_check_s": "gateway.golden_probe_s"}
"""Settings that were renamed. The earlier name is a fault that says the new one, also as a variable, so no value that someone set
is ignored."""


def variable(group: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"ROADWORTHY_{name if group in _SHORT else f'{group}_{name}'}".upper()


@dataclass(frozen=True, slots=True)
class _Setting:
    value: object
    origin: str


def load_settings(
    flags: Mapping[str, object] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Settings:
    """All settings, from all sources.

    Args:
        flags: values of flags by `group.name`; None values are skipped.
        environment: variables; None for the process's own.
        folder: searched for `roadworthy.toml` before the home folder; None for the current folder.

    Raises:
        SettingsError: code "settings-invalid"; facts["faults"] names every fault with its setting, origin and problem.
    """
    variables = os.environ if environment is None else environment
    names = {variable(group, entry.name): f"{group}.{entry.name}" for group, entry in _entries()}
    earlier = {variable(*old.split(".", 1)): old for old in _RENAMED}
    named = names | earlier
    optional = {f"{group}.{entry.name}" for group, entry in _entries() if entry.default is None}
    given = {
        setting: _Setting(variables[name], name)
        for name, setting in named.items()
        if variables.get(name) or (name in variables and setting not in optional)
    }
    for setting, value in (flags or {}).items():
        if value is not None:
            given[setting] = _Setting(value, f"--{setting.partition('.')[2].replace('_', '-')}")
    reader = Reader(texts=True)
    file = _file(given.get("general.home"), variables, folder or Path())
    if file is not None:
        given = {**_from_file(file, reader), **given}
    for old in _RENAMED.keys() & given.keys():
        new = _RENAMED[old]
        reader.fault(old, f"is now {new}; write that, or {variable(*new.split('.', 1))} in the environment")
    groups = {group: kind(**reader.table(kind, _of_group(given, group), group)) for group, kind in GROUPS.items()}
    if reader.faults:
        raise _invalid(reader.faults, given, str(file))
    groups["general"] = dataclasses.replace(groups["general"], home=_home(groups["general"].home))
    ours = {name for name in variables if name.startswith("ROADWORTHY_")}
    return _with_context(
        Settings(
            **groups,
            origins={setting: each.origin for setting, each in given.items()},
            unknown=tuple(sorted(ours - names.keys() - _ALSO_KNOWN)),
            file=file,
        )
    )


def _entries() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for group, kind in GROUPS.items():
        for entry in dataclasses.fields(kind):
            yield group, entry


def _of_group(given: Mapping[str, _Setting], group: str) -> dict[str, object]:
    return {
        setting.removeprefix(f"{group}."): each.value
        for setting, each in given.items()
        if setting.startswith(f"{group}.") and setting not in _RENAMED
    }


def _from_file(path: Path, reader: Reader) -> dict[str, _Setting]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reader.fault(FILE_NAME, f"cannot be read: {error}")
        return {}
    given: dict[str, _Setting] = {}
    for group, table in document.items():
        if group not in GROUPS:
            reader.unknown(group, "group", group, tuple(GROUPS))
        elif not isinstance(table, dict):
            reader.fault(group, "expected a group of settings")
        else:
            given |= {f"{group}.{name}": _Setting(value, str(path)) for name, value in table.items()}
    return given


def _file(home: _Setting | None, variables: Mapping[str, str], folder: Path) -> Path | None:
    named = variables.get("ROADWORTHY_CONFIG")
    if named:
        return Path(named)
    base = Path(str(home.value)) if home is not None else GeneralSettings().home
    return next((path for path in (folder / FILE_NAME, _home(base) / FILE_NAME) if path.is_file()), None)


def _home(path: Path) -> Path:
    """The absolute path; unchanged when ~ cannot be resolved, since not every command needs a home folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        return path


def _checked_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text.rstrip("/")


def _checked_gateway_name(text: str) -> str:
    return check_name(text, "gateway name")


def _checked_endpoint(text: str) -> str:
    return check_name(text, "endpoint name")


def _checked_plugins(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(distribution_name, names)))


def _checked_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(ip_network(text)) for text in networks)


def _checked_blob_url(text: str) -> str:
    if not _SCHEME.match(text):
        raise ValueError("must begin with the name of a plug-in and a colon, such as s3://bucket")
    return text


def _checked_cache_url(text: str) -> str:
    """`text` as given. The fault repeats no part of it, because it may hold a password."""
    try:
        parts = urlsplit(text)
        known = all(name == "db" or name.startswith("ssl_") for name, _ in parse_qsl(parts.query, strict_parsing=True))
        database = parts.path.strip("/")
        if parts.scheme in ("redis", "rediss"):
            fits = bool(parts.hostname) and parts.port != 0 and (not database or database.isdecimal())
        else:
            fits = parts.scheme == "unix" and bool(database)
    except ValueError:  # an invalid port or query
        known = fits = False
    if not fits or not known:
        raise ValueError(
            "must be redis://[user:password@]host[:port][/database], the same with rediss://, or unix://path, "
            "with special characters of a password percent-encoded, and no options but ?db= and ?ssl_…="
        )
    return text


def _lowered(value: object) -> str:
    return str(value).lower()


def _path(value: object) -> Path:
    text = str(value).strip()
    if not text:
        raise ValueError("must not be empty")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but the system knows no such home folder; write the whole path") from None


def _invalid(found: Sequence[Fault], given: Mapping[str, _Setting], file: str) -> SettingsError:
    faults = []
    for fault in found:
        setting = fault.path.partition("[")[0]
        origin = given[setting].origin if setting in given else file
        faults.append({"setting": setting, "origin": origin, "problem": fault.problem})
    lines = "; ".join(f"{fault['setting']} ({fault['origin']}): {fault['problem']}" for fault in faults)
    count = "one setting is wrong" if len(faults) == 1 else f"{len(faults)} settings are wrong"
    return SettingsError(f"{count}: {lines}", hint="see docs/settings.md", facts={"faults": faults})


def _with_context(settings: Settings) -> Settings:
    """Fill in what `roadworthy up` wrote. Its key is used with its own addresses only, never with another address."""
    given = settings.client
    wrote = _context(settings.general.home)
    taken: dict[str, Any] = {
        name: wrote[name] for name in ("control_url", "gateway_url") if getattr(given, name) is None and name in wrote
    }
    ours = all(getattr(given, name) in (None, wrote.get(name)) for name in ("control_url", "gateway_url"))
    if given.key is None and ours and "key" in wrote:
        taken["key"] = wrote["key"]
    origins = {**settings.origins, **{f"client.{name}": "context" for name in taken}}
    return dataclasses.replace(settings, client=dataclasses.replace(given, **taken), origins=origins)


def _context(home: Path) -> dict[str, Any]:
    if not home.is_absolute():
        return {}
    try:
        document = json.loads((home / "context.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: text for name, text in document.items() if isinstance(text, str)} if isinstance(document, dict) else {}
