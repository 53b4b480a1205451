"""Pushing packages with grants through the real API: allowed grants, and their effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.package.archive import open_package
from tests.control_plane import ControlProcess, FakeGateway

PATH = "/api/v1/packages"


class GrantingControl(ControlProcess):
    """A control plane whose operator allows its own folder by mistake, and some other grants on purpose."""

    def document(self, fd: int) -> dict[str, Any]:
        """The start document."""
        allowed = ["network", "read:/", "tcp:5432"]
        return {**super().document(fd), "grants": allowed, "private": [str(self.folder)]}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[ControlProcess]:
    """That control plane."""
    process = GrantingControl(tmp_path / "control")
    yield process
    process.kill()


@pytest.fixture
def send(admin: httpx.Client, make_package: Callable[..., Path]) -> Callable[..., httpx.Response]:
    """Push the package that carries code with these grants."""
    packed = make_package(code=True)
    digest = open_package(packed).digest

    def go(*grants: str, allow: str | None = digest) -> httpx.Response:
        asked: dict[str, Any] = {"grant": list(grants), **({} if allow is None else {"allow_code": allow})}
        return admin.post(PATH, content=packed.read_bytes(), params=asked)

    return go


def refused(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of the refusal."""
    return reply.status_code, reply.json()["code"]


def test_grants_are_kept_shown_audited_and_sent_to_gateways(
    admin: httpx.Client, gateway: FakeGateway, send: Callable[..., httpx.Response]
) -> None:
    """In one form, whatever the order; a package that is pushed again is the same version."""
    pushed = send("tcp:5432", "network", "tcp:5432")
    assert pushed.status_code == 201, pushed.text
    assert pushed.json()["grants"] == ["network", "tcp:5432"]
    assert admin.get("/api/v1/models/line/versions/1").json()["grants"] == ["network", "tcp:5432"]
    (entry,) = [item for item in admin.get("/api/v1/audit").json()["items"] if item["verb"] == "push"]
    assert entry["detail"]["grants"] == ["network", "tcp:5432"]
    assert entry["actor"] == pushed.json()["allowed_by"]
    assert send("network", "tcp:5432").status_code == 200
    assert admin.put("/api/v1/endpoints/line", json={"version": "line:1"}).status_code in (200, 202)
    (package,) = gateway.snapshot().json()["packages"]
    assert package["allowed_by"] is None
    assert package["granted"] == {"allowed_by": entry["actor"], "grants": ["network", "tcp:5432"]}


def test_a_version_keeps_its_grants(send: Callable[..., httpx.Response]) -> None:
    """Neither more nor fewer grants are accepted; the refusal names the version's grants."""
    assert send("tcp:5432").status_code == 201
    for others in ((), ("network",), ("network", "tcp:5432")):
        answer = send(*others)
        assert refused(answer) == (409, "grants-differ")
        assert "--grant tcp:5432" in answer.json()["hint"]
        assert answer.json()["grants"] == ["tcp:5432"]
    assert send("tcp:5432").status_code == 200


def test_nothing_beyond_the_setting_is_granted(
    control: ControlProcess, admin: httpx.Client, send: Callable[..., httpx.Response], tmp_path: Path
) -> None:
    """Nor the control plane's own folders, nor missing paths; a refused push registers nothing."""
    beyond = send("device:/dev/fuse", "tcp:5432")
    assert refused(beyond) == (422, "grant-not-allowed")
    assert "general.grants" in beyond.json()["hint"]
    assert beyond.json()["grant"] == "device:/dev/fuse"
    for path in (control.folder, control.folder / "roadworthy.db", tmp_path, "/"):
        assert refused(send(f"read:{path}")) == (422, "grant-not-allowed")
    assert refused(send(f"read:{tmp_path.parent / 'no-such-file'}")) == (422, "grant-not-available")
    assert admin.get("/api/v1/models").json()["items"] == []


def test_grants_come_with_the_leave_to_run_code(
    admin: httpx.Client, send: Callable[..., httpx.Response], make_package: Callable[..., Path]
) -> None:
    """Without permission to run code they are refused, as they are for a package without code."""
    assert refused(send("network", allow=None)) == (422, "code-not-allowed")
    data = make_package()
    asked = {"allow_code": open_package(data).digest, "grant": "network"}
    assert refused(admin.post(PATH, content=data.read_bytes(), params=asked)) == (400, "grant-invalid")
    assert refused(send("network:all")) == (400, "grant-invalid")
    assert refused(send(*(f"tcp:{port}" for port in range(1, 40)))) == (400, "grant-invalid")
