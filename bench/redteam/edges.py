"""B.5: files that other users could read, webhooks to internal addresses, endless bodies, wrong keys."""

from __future__ import annotations

import socket
import stat
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from bench.load.raw import Connection
from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, asked, counted, found, manager
from bench.redteam.identity import _told
from bench.service import NO_TLS, Service, role_of
from roadworthy.foundation.keys import make_key

STRANGER = ("unshare", "--user", "--map-user=54321", "--map-group=54321", "env", "--unset=HOME")
"""Runs a command under a user id without a name or home folder."""
SENT_MIB = {"public": 200, "internal": 300}
"""Maximum size of an endless body; a record file may have 256 MiB."""
_PLAIN = str.maketrans("", "", "{}")
TARGETS = (
    "http://127.0.0.1:{port}/", "https://127.0.0.1:{port}/", "https://127.1:{port}/", "https://2130706433:{port}/",
    "https://0x7f000001:{port}/", "https://0x7f.1:{port}/", "https://0177.0.0.1:{port}/", "https://017700000001:{port}/",
    "https://0:{port}/", "https://0.0.0.0:{port}/", "https://127.0.0.1.:{port}/", "https://localhost:{port}/",
    "https://LOCALHOST.:{port}/", "https://ip6-localhost:{port}/", "https://①②⑦.⓪.⓪.①:{port}/", "https://127。0。0。1:{port}/",
    "https://[::1]:{port}/", "https://[::]:{port}/", "https://[0:0:0:0:0:0:0:1]:{port}/", "https://[::127.0.0.1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/", "https://[::ffff:7f00:1]:{port}/", "https://[::ffff:0:127.0.0.1]:{port}/",
    "https://[64:ff9b::127.0.0.1]/", "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::7f00:1]/",
    "https://[64:ff9b:1:7f00:0:100::]/", "https://[2002:7f00:1::]/", "https://[2002:a9fe:a9fe::1]/", "https://[2002:a00:1::]/",
    "https://[2001:0:7f00:1::80ff:fffe]/", "https://[2001:db8::5efe:7f00:1]/", "https://[fec0::1]/", "https://[fe80::1]/",
    "https://[fe80::1%25lo]/", "https://[fc00::1]/", "https://[fd00:ec2::254]/", "https://[ff02::1]/", "https://169.254.169.254/",
    "https://2852039166/", "https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.0.1/", "https://100.64.0.1/",
    "https://198.18.0.1/", "https://224.0.0.1/", "https://255.255.255.255/", "https://192.0.0.192/", "https://100.100.100.200/",
    "https://168.63.129.16/", "https://8.8.8.8@127.0.0.1:{port}/", "https://127.0.0.1:{port}#@8.8.8.8/",
    "https://127.0.0.1:{port}\\@8.8.8.8/", "https://8.8.8.8\r\nHost: 127.0.0.1/", "https:127.0.0.1:{port}", "//127.0.0.1:{port}/",
    "file:///etc/passwd", "gopher://127.0.0.1:{port}/", "ftp://127.0.0.1/", "unix:///run/x.sock", "", "https://", "http://8.8.8.8/",
)  # fmt: skip
"""In odd notations: this machine, internal networks, the cloud metadata service; and invalid URLs."""


def modes(ground: Ground) -> Iterator[Finding]:
    """Under an open and a strict umask: database, journal, backup, blobs, logs, sockets, while it runs and afterwards."""
    for umask in (0o000, 0o077):
        service = ground.serving(f"home-{umask:o}", umask=umask)
        asked(service)
        found(partial(_has_records, service.home), 20)
        copy = service.home / "copy.db"
        service.run("backup", str(copy))
        running = open_to_others(service.home)
        journal = (service.home / "control" / "roadworthy.db-wal").exists()
        service.stop()
        bad = sorted({*running, *open_to_others(service.home)})
        count = sum(1 for _ in service.home.rglob("*"))
        came = ", ".join(bad[:5]) or f"none of {count} files and folders open to others"
        yield (
            f"files under umask {umask:03o}, a backup and the journal among them",
            came,
            not bad and journal and copy.exists(),
        )


def _has_records(home: Path) -> bool:
    return any((home / "control" / "blobs").glob("records/**/*.parquet"))


def open_to_others(folder: Path) -> list[str]:
    """Paths below a folder that other users may read, write or enter."""
    return [
        f"{stat.S_IMODE(path.lstat().st_mode):o} {path.relative_to(folder)}"
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


def stranger(ground: Ground) -> Iterator[Finding]:
    """A user id without a name or HOME, as in containers."""
    service = ground.installation()
    for words in (["up", "-d"], ["status"], ["serve", "x.rw"]):
        done = service.attempt(*words, under=(*STRANGER, "--unset=ROADWORTHY_HOME"))
        if done.stderr.startswith("unshare:"):
            yield "a user id without a name or HOME", done.stderr.strip(), None
            return
        said = done.stderr.strip().splitlines() or ["nothing"]
        clean = "Traceback" not in done.stderr and any(line.strip().startswith("code: ") for line in said)
        yield f"`{' '.join(words)}` by a user id without a name or HOME", said[0], clean and done.returncode != 0


def webhooks(ground: Ground) -> Iterator[Finding]:
    """A webhook to each of TARGETS; a listener on this machine detects calls."""
    service = ground.shared()
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, manager(service) as admin:
        threading.Thread(target=_listen, args=(listener, calls), daemon=True).start()
        taken, codes = [], []
        for target in TARGETS:
            url = target.format(port=listener.getsockname()[1])
            reply = admin.post("/api/v1/webhooks", json={"url": url})
            codes.append(_told(reply))
            if reply.status_code < 300:
                taken.append(url)
                admin.post(f"/api/v1/webhooks/{reply.json()['id']}:test")
        came = f"TAKEN: {', '.join(taken)}" if taken else counted(codes)
        yield f"webhooks to {len(TARGETS)} targets in odd notations", came, not taken and all(map(_is_refusal, codes))
        yield "what called a listener of this machine", f"{len(calls)} connections", not calls
        reply = admin.post("/api/v1/webhooks", json={"url": "https://8.8.8.8/hook"})
        yield "control: a public address is taken", _told(reply), reply.status_code == 201


def _is_refusal(told: str) -> bool:
    return told.startswith("4")


def _listen(listener: socket.socket, calls: list[object]) -> None:
    while True:
        try:
            connection, address = listener.accept()
        except OSError:
            return
        connection.close()
        calls.append(address)


def bodies(ground: Ground) -> Iterator[Finding]:
    """Hundreds of MB of chunked JSON, to every route of the management API that takes a body."""
    service = ground.shared()
    (control,) = [member for member in service.members() if role_of(member) == "control"]
    with manager(service) as admin:
        gateway_key = admin.post("/api/v1/keys", json={"role": "gateway", "name": "flood"}).json()["key"]
        routes = [
            (method.upper(), path)
            for path, methods in admin.get("/openapi.json").json()["paths"].items()
            for method in methods
            if method in ("post", "put", "patch", "delete") and path != "/api/v1/packages"
        ]
    internal = [("POST", "/internal/v1/telemetry"), ("PUT", "/internal/v1/records/flood/a.parquet")]
    before = control.memory_info().rss
    for kind, some, key in (("public", routes, service.key), ("internal", internal, gateway_key)):
        came = [_flood(service, f"{method} {path.translate(_PLAIN)}", key, SENT_MIB[kind]) for method, path in some]
        largest = max(sent for _, sent in came)
        text = f"{counted(status for status, _ in came)}, at most {largest} MiB taken"
        refused = all(status.startswith("4") for status, _ in came) and largest < (SENT_MIB[kind] if kind == "internal" else 20)
        yield f"an endless body to {len(some)} {kind} routes", text, refused
    grown = (control.memory_info().rss - before) >> 20
    alive = control.is_running() and manager(service).get("/api/v1/status").status_code == 200
    yield "the control plane afterwards", f"{'answers' if alive else 'DEAD'}, {grown} MiB larger", alive and grown < 150
    before_s = asked(service, [[[[[0.0]]]] * 10]).status_code
    yield "a body that is no request, to a prediction", str(before_s), before_s < 500


def _flood(service: Service, line: str, key: str, most: int) -> tuple[str, int]:
    """The answer, and the MiB sent before it arrived."""
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
    connection = Connection(service.ports[1], TIMEOUT_S)
    piece = b"100000\r\n" + b"[" * (1 << 20) + b"\r\n"
    sent = 0
    try:
        connection.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        while sent < most and not _readable(connection) and connection.send(piece) == len(piece):
            sent += 1
        if sent == most:
            connection.send(b"0\r\n\r\n")
        return str(connection.reply().status), sent
    except OSError as error:
        return type(error).__name__, sent
    finally:
        connection.close()


def _readable(connection: Connection) -> bool:
    connection.socket.setblocking(False)
    try:
        return bool(connection.socket.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connection.socket.settimeout(TIMEOUT_S)


def keys(ground: Ground) -> Iterator[Finding]:
    """Both planes distinguish a wrong key from a missing one, and reveal nothing to either caller."""
    service = ground.shared()
    gateway, control = (f"http://127.0.0.1:{port}" for port in service.ports[:2])
    wrong = f"Bearer {make_key()[1]}"
    for name, url, method in (
        ("gateway", f"{gateway}/v1/models/line:predict", "POST"),
        ("control plane", f"{control}/api/v1/status", "GET"),
    ):
        came = []
        for authorization in (None, "", "Bearer", "Basic YTpi", wrong, "Bearer nonsense", f"bearer {service.key[:-1]}"):
            headers: dict[str, Any] = {} if authorization is None else {"Authorization": authorization}
            came.append(_told(httpx.request(method, url, headers=headers, timeout=TIMEOUT_S, verify=NO_TLS)))
        none, other = set(came[:4]), set(came[4:])
        yield f"no key, and a wrong key, {name}", counted(came), len(none) == len(other) == 1 and not none & other


ATTACKS = (
    Attack("B5", modes, 120.0),
    Attack("B5", stranger, 30.0),
    Attack("B5", webhooks, 60.0, quick=True),
    Attack("B5", bodies, 90.0),
    Attack("B5", keys, 30.0, quick=True),
)
