"""C.11: probes under any host name, listening on all addresses, and a model's output."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

from bench.load.raw import ClosedError, connected
from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, asked, counted, deploy, found
from bench.redteam.rogue import PRINT, PRINTED, asking, rogue
from bench.service import Service

EVERYWHERE = "0.0.0.0"  # noqa: S104  the subject of the attack
HOSTS = (
    b"Host: 10.1.2.3:8080", b"Host: gateway.prod.svc.cluster.local", b"Host: evil.example", b"Host: [fd00::1]:8080", b"Host: a_b",
    b"Host: a b", b"Host: localhost@evil.example", b"Host: ", b"X-Nothing: 1", b"Host: " + b"x" * 2_000,
)  # fmt: skip
GATEWAY_PROBES = (b"/livez", b"/readyz", b"/v2/health/live", b"/v2/health/ready")
CONTROL_PROBES = (b"/livez", b"/readyz")
MOST_LINES = 2_000
DROPPED = "printed-lines-dropped"


def probes(ground: Ground) -> Iterator[Finding]:
    """Both planes answer probes; a refusal of anything else names the setting."""
    service = ground.shared()
    for plane, port, paths, variable in (
        ("gateway", service.ports[0], GATEWAY_PROBES, "ROADWORTHY_GATEWAY_ALLOWED_HOSTS"),
        ("control plane", service.ports[1], CONTROL_PROBES, "ROADWORTHY_CONTROL_ALLOWED_HOSTS"),
    ):
        # A server may refuse an invalid host before it looks at the path.
        came = [_status(port, path, host)[0] for path in paths for host in HOSTS if host != b"X-Nothing: 1"]
        yield f"probes of the {plane} by odd hosts", counted(came), set(came) == {200}
        status, body = _status(port, b"/v1/models", b"Host: evil.example")
        named = variable.encode() in body
        yield (
            f"another path of the {plane} by an unknown host",
            f"{status}, {'' if named else 'NOT '}naming {variable}",
            (status == 400 and named),
        )


def _status(port: int, path: bytes, host: bytes) -> tuple[int, bytes]:
    with connected(port, TIMEOUT_S) as connection:
        connection.send(b"GET %b HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % (path, host))
        try:
            reply = connection.reply()
        except (ClosedError, TimeoutError):
            return 0, b""
        return reply.status, reply.body


def everywhere(ground: Ground) -> Iterator[Finding]:
    """Bound to all addresses, it prints the known names and the setting that adds more."""
    environment = {"ROADWORTHY_GATEWAY_HOST": EVERYWHERE, "ROADWORTHY_CONTROL_HOST": EVERYWHERE}
    service = ground.installation(environment=environment)
    service.start()
    service.wait_ready(TIMEOUT_S)
    log = service.log.read_text()
    for name in ("gateway.allowed_hosts", "control.allowed_hosts"):
        line = next((line for line in log.splitlines() if name in line), "")
        known = socket.gethostname().lower() in line and "localhost" in line
        yield f"`up` on all addresses, {name.partition('.')[0]}", line[:90] or "SAYS NOTHING", known


def printed(ground: Ground) -> Iterator[Finding]:
    """A model prints tens of thousands of lines, some of them forged to look like the service's own."""
    service = ground.shared()
    deploy(service, rogue())
    before = service.log.stat().st_size
    status = asked(service, asking(PRINT), "rogue").status_code
    found(lambda: DROPPED in _since(service, before), 15.0)
    lines = [line for line in _since(service, before).splitlines() if line.strip()]
    events = [_event(line) for line in lines]
    bad, forged = events.count("no JSON"), events.count("redteam-forged")
    came = f"{status}, {len(lines)} lines, {bad} not JSON, {forged} forged, dropped lines told: {events.count(DROPPED)} x"
    holds = status == 200 and not bad and not forged and len(lines) < MOST_LINES and DROPPED in events
    yield f"a model prints {PRINTED:,} lines, some forged", came, holds


def _since(service: Service, place: int) -> str:
    with service.log.open("rb") as log:
        log.seek(place)
        return log.read().rpartition(b"\n")[0].decode(errors="replace")


def _event(line: str) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return "no JSON"


ATTACKS = (
    Attack("C11", probes, 60.0, quick=True),
    Attack("C11", everywhere, 60.0),
    Attack("C11", printed, 60.0),
)
