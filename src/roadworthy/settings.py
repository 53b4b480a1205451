"""What can be configured, where each value comes from, and the only place that reads the environment.

The command line calls `load_settings` and hands each process its own part. From weakest to strongest: the defaults below, the
context that `roadworthy up` wrote (addresses and key only), `roadworthy.toml`, the environment (`ROADWORTHY_…`), flags.
Reading opens nothing else and changes nothing; all faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
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
from roadworthy.foundation.references import check_name

Level = Literal["debug", "info", "warning", "error"]
Confinement = Literal["required", "best-effort"]
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
FILE_NAME = "roadworthy.toml"
Port = Annotated[int, Bounds(0, 65_535)]


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """What every command needs."""

    home: Annotated[Path, Given(_path)] = Path("~/.roadworthy")
    """Private folder (mode 0700) with everything that Roadworthy keeps on this machine."""
    debug: bool = False
    """Show the whole traceback of an error instead of one clear block."""
    confinement: Confinement = "required"
    """Where this machine cannot confine the code of packages, "required" refuses it, and "best-effort" executes it with what can
    be had."""

    grants: Annotated[tuple[str, ...], parse_grants] = ()
    """What the code of packages may be granted on this machine beside its own files: "read:/path", "device:/dev/name",
    "device:nvidia", "tcp:PORT", "network". The control plane and every gateway ask their own."""

    def home_folder(self) -> Path:
        """`home`, for who is about to use it.

        Raises:
            SettingsError: code "home-unknown".
        """
        if not self.home.is_absolute():  # "~" could not be resolved
            raise SettingsError(
                "this user has no home folder: HOME is not set, and the system knows none for it",
                code="home-unknown",
                hint="set ROADWORTHY_HOME to a folder that this user may write, or name one with --home",
            )
        return self.home


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Where commands and `rw.load` find the control plane, and callers the gateway."""

    control_url: Annotated[str, _checked_url] | None = None
    """Address of the control plane, http:// or https://. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8081."""
    gateway_url: Annotated[str, _checked_url] | None = None
    """Address of the gateway. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8080."""
    key: str | None = field(default=None, repr=False)
    """API key. None: the one that `roadworthy up` wrote, which is used with its own addresses only."""
    timeout_s: Annotated[float, Bounds(0.001, 86_400)] = 60.0
    """Seconds that one request may take."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The data plane of this machine."""

    name: Annotated[str, _checked_gateway_name] | None = None
    """Name of this gateway, after that of its key. None: "local" for `up`, otherwise made from the host's name."""
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
    """What the Host header may say beside loopback names and the address listened on, or, when that is all addresses, this
    machine's name. "*" allows any. Probes are answered whatever it says."""
    access_log: bool = False
    """One log line a request."""
    deep_check_s: Annotated[float, Bounds(0, 86_400)] = 30.0
    """Seconds between two checks of each version with its golden examples on the live path. 0 never."""
    memory_close_share: Annotated[float, Bounds(0.1, 1)] = 0.92
    """Share of the machine's memory in use from which on replies end their connections. 1 never."""
    memory_refuse_share: Annotated[float, Bounds(0.1, 1)] = 0.95
    """Share of the machine's memory in use from which on new predictions are refused. 1 never."""
    disk_reserve_mb: Annotated[int, Bounds(0, 1 << 24)] = 256
    """Free space below which the disk counts as short: it is told, and records are dropped and counted. 0 never."""
    drain_delay_s: Annotated[float, Bounds(0, 600)] = 0.0
    """Seconds for which a worker that stops still takes connections after its probe has begun to say no: as long as those who
    route by the probe take to notice. 0 on one machine, some seconds behind a load balancer."""
    worker_hang_s: Annotated[float, Bounds(2, 3_600)] = 15.0
    """A worker that gives no sign of life for so many seconds is killed and started again."""
    worker_memory_mb: Annotated[int, Bounds(64, 1 << 24)] | None = None
    """A worker that has grown beyond this is replaced, warm. None: an equal part of 60 % of the machine's memory, at least
    1 GiB."""
    growth_mb: Annotated[int, Bounds(0, 1 << 24)] = 1_024
    """A worker or runner process whose own memory has grown by more than this since its first minute is replaced, warm. 0: it may
    grow."""
    crashes_to_quarantine: Annotated[int, Bounds(1, 1_000)] = 3
    """A version that crashes its process so often within ten minutes is kept out of service for an hour."""
    cache_url: Annotated[str, _checked_cache_url] | None = field(default=None, repr=False)
    """Redis server in which all workers and machines share the answers of endpoints that have a cache: redis://, rediss:// (TLS)
    or unix://. None: each worker has its own only."""
    cache_wait_ms: Annotated[float, Bounds(1, 1_000)] = 20.0
    """Milliseconds that a request waits for that server at most."""
    record_max_bytes: Annotated[int, Bounds(0, 1 << 50)] = 5 << 30
    """Bytes that record files may take on disk; the oldest go first and are counted."""


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
    allowed_hosts: tuple[str, ...] | None = None
    """What the Host header may say beside loopback names and the address listened on, or, when that is all addresses, this
    machine's name. "*" allows any. Probes are answered whatever it says."""
    max_package_bytes: Annotated[int, Bounds(1, 1 << 50)] = 4 << 30
    """Largest package that may be pushed, in bytes."""
    feedback_max_rows: Annotated[int, Bounds(0, 1 << 40)] = 5_000_000
    """Rows of feedback that are kept. Beyond it whole rollouts go, those that ended longest ago first, and take no more."""
    webhook_networks: Annotated[tuple[str, ...], _checked_networks] = ()
    """Networks, like 127.0.0.0/8 or 10.1.0.0/16, that webhooks may call although they are not public, and by http too."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs of all processes, JSON lines on standard error."""

    level: Annotated[Level, Given(_lowered)] = "info"
    """Least level that is written: debug, info, warning or error."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, and for each `group.name` that is not a default where it came from."""

    general: GeneralSettings
    client: ClientSettings
    gateway: GatewaySettings
    control: ControlSettings
    log: LogSettings
    origins: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    """Environment variables that begin like ours and mean nothing."""
    file: Path | None = None
    """The file that was read."""

    def origin(self, name: str) -> str:
        """Where `group.name` came from: "default", "context", a file, a variable or a flag."""
        return self.origins.get(name, "default")

    def entries(self) -> Iterator[tuple[str, object]]:
        """Every (`group.name`, value), in the order of this page."""
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
SECRET = frozenset({"client.key", "control.database_url", "gateway.cache_url"})
_SHORT = frozenset({"general", "client"})
"""Groups whose variables carry no group name: ROADWORTHY_HOME, ROADWORTHY_KEY."""
_ALSO_KNOWN = frozenset({"ROADWORTHY_CONFIG"})


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
    """All settings, from everywhere.

    Args:
        flags: `group.name` to the value that a flag gave; None values are skipped.
        environment: variables; None takes the process's own.
        folder: where `roadworthy.toml` is looked for before the home folder; None takes the present one.

    Raises:
        SettingsError: code "settings-invalid"; facts["faults"] names every fault with its setting, origin and problem.
    """
    variables = os.environ if environment is None else environment
    names = {variable(group, entry.name): f"{group}.{entry.name}" for group, entry in _entries()}
    given = {setting: _Setting(variables[name], name) for name, setting in names.items() if name in variables}
    for setting, value in (flags or {}).items():
        if value is not None:
            given[setting] = _Setting(value, f"--{setting.partition('.')[2].replace('_', '-')}")
    reader = Reader(texts=True)
    file = _file(given.get("general.home"), variables, folder or Path())
    if file is not None:
        given = {**_from_file(file, reader), **given}
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
        if setting.startswith(f"{group}.")
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
    if named is not None:
        return Path(named)
    base = Path(str(home.value)) if home is not None else GeneralSettings().home
    return next((path for path in (folder / FILE_NAME, _home(base) / FILE_NAME) if path.is_file()), None)


def _home(path: Path) -> Path:
    """Absolute; still with its ~ for a user whom the system knows no home folder of, who may need none."""
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


def _checked_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(ip_network(text)) for text in networks)


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
    """Fill in what `roadworthy up` wrote. Its key goes to its own addresses only, never to one that came from elsewhere."""
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
    return (
        {name: text for name, text in document.items() if isinstance(text, str)} if isinstance(document, dict) else {}
    )
