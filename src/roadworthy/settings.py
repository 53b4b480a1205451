"""What can be configured, where each value comes from, and the only place that reads the environment.

The command line calls `load_settings` and hands each process its own part. From weakest to strongest: the defaults below, the
context that `roadworthy up` wrote (addresses and key only), `roadworthy.toml`, the environment (`ROADWORTHY_…`), flags.
Reading opens nothing else and changes nothing; all faults are reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from roadworthy.foundation.confine.grants import parse_grants
from roadworthy.foundation.errors import RoadworthyError, SettingsError
from roadworthy.foundation.references import check_name

Level = Literal["debug", "info", "warning", "error"]
Confinement = Literal["required", "best-effort"]
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
FILE_NAME = "roadworthy.toml"
_PORT = {"low": 0, "high": 65_535}


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """What every command needs."""

    home: Path = Path("~/.roadworthy")
    """Private folder (mode 0700) with everything that Roadworthy keeps on this machine."""
    debug: bool = False
    """Show the whole traceback of an error instead of one clear block."""
    confinement: Confinement = "required"
    """Where this machine cannot confine the code of packages, "required" refuses it, and "best-effort" executes it with what can
    be had."""

    grants: tuple[str, ...] = ()
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

    control_url: str | None = None
    """Address of the control plane, http:// or https://. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8081."""
    gateway_url: str | None = None
    """Address of the gateway. None: the one that `roadworthy up` wrote, else http://127.0.0.1:8080."""
    key: str | None = field(default=None, repr=False)
    """API key. None: the one that `roadworthy up` wrote, which is used with its own addresses only."""
    timeout_s: float = field(default=60.0, metadata={"low": 0.001, "high": 86_400})
    """Seconds that one request may take."""


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """The data plane of this machine."""

    name: str | None = None
    """Name of this gateway, after that of its key. None: "local" for `up`, otherwise made from the host's name."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = field(default=8080, metadata=_PORT)
    """Port for predictions; 0 takes a free one."""
    workers: int | None = field(default=None, metadata={"low": 1, "high": 256})
    """Worker processes. None: as many as usable cores, at most 4."""
    threads: int = field(default=1, metadata={"low": 1, "high": 1_024})
    """Threads of each native pool in a worker."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus page."""
    metrics_port: int = field(default=8082, metadata=_PORT)
    """Port of the Prometheus page; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] | None = None
    """What the Host header may say beside loopback names and the address listened on, or, when that is all addresses, this
    machine's name. "*" allows any. Probes are answered whatever it says."""
    access_log: bool = False
    """One log line a request."""
    deep_check_s: float = field(default=30.0, metadata={"low": 0, "high": 86_400})
    """Seconds between two checks of each version with its golden examples on the live path. 0 never."""
    memory_close_share: float = field(default=0.92, metadata={"low": 0.1, "high": 1})
    """Share of the machine's memory in use from which on replies end their connections. 1 never."""
    memory_refuse_share: float = field(default=0.95, metadata={"low": 0.1, "high": 1})
    """Share of the machine's memory in use from which on new predictions are refused. 1 never."""
    disk_reserve_mb: int = field(default=256, metadata={"low": 0, "high": 1 << 24})
    """Free space below which the disk counts as short: it is told, and records are dropped and counted. 0 never."""
    drain_delay_s: float = field(default=0.0, metadata={"low": 0, "high": 600})
    """Seconds for which a worker that stops still takes connections after its probe has begun to say no: as long as those who
    route by the probe take to notice. 0 on one machine, some seconds behind a load balancer."""
    worker_hang_s: float = field(default=15.0, metadata={"low": 2, "high": 3_600})
    """A worker that gives no sign of life for so many seconds is killed and started again."""
    worker_memory_mb: int | None = field(default=None, metadata={"low": 64, "high": 1 << 24})
    """A worker that has grown beyond this is replaced, warm. None: an equal part of 60 % of the machine's memory, at least
    1 GiB."""
    growth_mb: int = field(default=1_024, metadata={"low": 0, "high": 1 << 24})
    """A worker or runner process whose own memory has grown by more than this since its first minute is replaced, warm. 0: it may
    grow."""
    crashes_to_quarantine: int = field(default=3, metadata={"low": 1, "high": 1_000})
    """A version that crashes its process so often within ten minutes is kept out of service for an hour."""
    cache_url: str | None = field(default=None, repr=False)
    """Redis server in which all workers and machines share the answers of endpoints that have a cache: redis://, rediss:// (TLS)
    or unix://. None: each worker has its own only."""
    cache_wait_ms: float = field(default=20.0, metadata={"low": 1, "high": 1_000})
    """Milliseconds that a request waits for that server at most."""
    record_max_bytes: int = field(default=5 << 30, metadata={"low": 0, "high": 1 << 50})
    """Bytes that record files may take on disk; the oldest go first and are counted."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The control plane."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = field(default=8081, metadata=_PORT)
    """Port of the management API; 0 takes a free one."""
    database_url: str | None = field(default=None, repr=False)
    """SQLAlchemy address of the database. None: SQLite in the home folder."""
    blob_folder: Path | None = None
    """Where packages and record files are kept. None: in the home folder."""
    allowed_hosts: tuple[str, ...] | None = None
    """What the Host header may say beside loopback names and the address listened on, or, when that is all addresses, this
    machine's name. "*" allows any. Probes are answered whatever it says."""
    max_package_bytes: int = field(default=4 << 30, metadata={"low": 1, "high": 1 << 50})
    """Largest package that may be pushed, in bytes."""
    feedback_max_rows: int = field(default=5_000_000, metadata={"low": 0, "high": 1 << 40})
    """Rows of feedback that are kept. Beyond it whole rollouts go, those that ended longest ago first, and take no more."""
    webhook_networks: tuple[str, ...] = ()
    """Networks, like 127.0.0.0/8 or 10.1.0.0/16, that webhooks may call although they are not public, and by http too."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs of all processes, JSON lines on standard error."""

    level: Level = "info"
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


GROUPS: Mapping[str, type[Any]] = {
    "general": GeneralSettings,
    "client": ClientSettings,
    "gateway": GatewaySettings,
    "control": ControlSettings,
    "log": LogSettings,
}
SECRET = frozenset({"client.key", "control.database_url", "gateway.cache_url"})
_SHORT = frozenset(
    {"general", "client"}
)  # these groups' variables carry no group name: ROADWORTHY_HOME, ROADWORTHY_KEY
_ALSO_KNOWN = frozenset({"ROADWORTHY_CONFIG"})


def variable(group: str, name: str) -> str:
    """The environment variable of a setting."""
    return f"ROADWORTHY_{name if group in _SHORT else f'{group}_{name}'}".upper()


@dataclass(frozen=True, slots=True)
class _Given:
    value: object
    origin: str


@dataclass(slots=True)
class _Reading:
    """What was found so far, strongest last, and all that is wrong with it."""

    given: dict[str, _Given] = field(default_factory=dict)
    faults: list[dict[str, str]] = field(default_factory=list)

    def fault(self, setting: str, origin: str, problem: str) -> None:
        self.faults.append({"setting": setting, "origin": origin, "problem": problem})


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
    reading = _Reading()
    unknown = _read_environment(reading, variables)
    for name, value in (flags or {}).items():
        if value is not None:
            reading.given[name] = _Given(value, f"--{name.partition('.')[2].replace('_', '-')}")
    strongest = dict(reading.given)
    file = _read_file(reading, variables, folder or Path())
    reading.given.update(strongest)
    built = {group: _build(group, kind, reading) for group, kind in GROUPS.items()}
    if reading.faults:
        raise _invalid(reading.faults)
    settings = Settings(
        **built, origins={name: given.origin for name, given in reading.given.items()}, unknown=unknown, file=file
    )
    return _with_context(settings)


def _read_environment(reading: _Reading, variables: Mapping[str, str]) -> tuple[str, ...]:
    known = {variable(group, entry.name): f"{group}.{entry.name}" for group, entry in _entries()}
    for name, setting in known.items():
        if name in variables:
            reading.given[setting] = _Given(variables[name], name)
    strange = (name for name in variables if name.startswith("ROADWORTHY_") and name not in known)
    return tuple(sorted(set(strange) - _ALSO_KNOWN))


def _entries() -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    for group, kind in GROUPS.items():
        for entry in dataclasses.fields(kind):
            yield group, entry


def _read_file(reading: _Reading, variables: Mapping[str, str], folder: Path) -> Path | None:
    path = _file(reading, variables, folder)
    if path is None:
        return None
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reading.fault(FILE_NAME, str(path), f"cannot be read: {error}")
        return path
    for group, table in document.items():
        if group not in GROUPS or not isinstance(table, dict):
            reading.fault(group, str(path), f"is no group; the groups are {', '.join(GROUPS)}")
            continue
        names = [entry.name for entry in dataclasses.fields(GROUPS[group])]
        for name, value in table.items():
            if name in names:
                reading.given[f"{group}.{name}"] = _Given(value, str(path))
            else:
                near = difflib.get_close_matches(name, names, n=1)
                reading.fault(f"{group}.{name}", str(path), "is unknown" + (f"; meant {near[0]}?" if near else ""))
    return path


def _file(reading: _Reading, variables: Mapping[str, str], folder: Path) -> Path | None:
    named = variables.get("ROADWORTHY_CONFIG")
    if named is not None:
        return Path(named)
    home = reading.given.get("general.home")
    base = Path(str(home.value)) if home is not None else GeneralSettings().home
    return next((path for path in (folder / FILE_NAME, _home(base) / FILE_NAME) if path.is_file()), None)


def _home(path: Path) -> Path:
    """Absolute; still with its ~ for a user whom the system knows no home folder of, who may need none."""
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        return path


def _build(group: str, kind: type[Any], reading: _Reading) -> Any:
    values: dict[str, object] = {}
    for entry in dataclasses.fields(kind):
        given = reading.given.get(f"{group}.{entry.name}")
        if given is None:
            continue
        try:
            values[entry.name] = _checked(entry, given.value)
        except (TypeError, ValueError, RoadworthyError) as error:
            reading.fault(f"{group}.{entry.name}", given.origin, str(error))
    built = kind(**values)
    return dataclasses.replace(built, home=_home(built.home)) if group == "general" else built


def _checked(entry: dataclasses.Field[Any], value: object) -> object:
    kind = str(entry.type).removesuffix(" | None")
    parsed = _PARSERS[kind](value)
    low, high = entry.metadata.get("low"), entry.metadata.get("high")
    if low is not None and high is not None and not low <= cast("float", parsed) <= high:
        raise ValueError(f"must lie between {low} and {high}")
    if entry.name in ("control_url", "gateway_url"):
        return _checked_url(str(parsed))
    if entry.name == "webhook_networks":
        return tuple(str(ip_network(text)) for text in cast("tuple[str, ...]", parsed))
    if entry.name == "grants":
        return parse_grants(cast("tuple[str, ...]", parsed))
    if entry.name == "cache_url":
        return _checked_cache_url(str(parsed))
    return check_name(str(parsed), "gateway name") if entry.name == "name" else parsed


def _checked_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return text.rstrip("/")


def _checked_cache_url(text: str) -> str:
    """As given. What is wrong is told without any part of it: it may hold a password."""
    try:
        parts = urlsplit(text)
        known = all(name == "db" or name.startswith("ssl_") for name, _ in parse_qsl(parts.query, strict_parsing=True))
        database = parts.path.strip("/")
        if parts.scheme in ("redis", "rediss"):
            fits = bool(parts.hostname) and parts.port != 0 and (not database or database.isdecimal())
        else:
            fits = parts.scheme == "unix" and bool(database)
    except ValueError:  # a port that is none, a query that is none
        known = fits = False
    if not fits or not known:
        raise ValueError(
            "must be redis://[user:password@]host[:port][/database], the same with rediss://, or unix://path, "
            "with what is special in a password percent-encoded, and no options but ?db= and ?ssl_…="
        )
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not empty")
    return value.strip()


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError("must be a whole number")
    try:
        return int(value)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError("must be a number")
    try:
        return float(value)
    except ValueError:
        raise ValueError("must be a number") from None


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    try:
        return known[str(value).strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _list(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise TypeError("must be a list of texts")
    return tuple(_text(part) for part in parts)


def _level(value: object) -> str:
    if str(value).lower() not in ("debug", "info", "warning", "error"):
        raise ValueError("must be debug, info, warning or error")
    return str(value).lower()


def _confinement(value: object) -> str:
    if value not in ("required", "best-effort"):
        raise ValueError("must be required or best-effort")
    return str(value)


def _path(value: object) -> Path:
    try:
        return Path(_text(str(value))).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, and the system knows no such home folder; write the whole path") from None


_PARSERS: Mapping[str, Callable[[object], object]] = {
    "str": _text,
    "int": _whole,
    "float": _number,
    "bool": _switch,
    "Path": _path,
    "Level": _level,
    "Confinement": _confinement,
    "tuple[str, ...]": _list,
}


def _invalid(faults: list[dict[str, str]]) -> SettingsError:
    lines = "; ".join(f"{fault['setting']} ({fault['origin']}) {fault['problem']}" for fault in faults)
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
