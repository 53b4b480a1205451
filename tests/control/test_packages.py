"""Pushing, listing and deleting versions through the real API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.control_plane import serving

Push = Callable[..., dict[str, Any]]


def test_push_numbers_versions_and_keeps_the_number_of_an_equal_package(admin: httpx.Client, push: Push) -> None:
    """The same bytes are the same version; other bytes get the next number."""
    first, again, second = push(factor=2.0), push(factor=2.0), push(factor=3.0)
    assert (first["version"], again["version"], second["version"]) == (1, 1, 2)
    assert first["digest"] == again["digest"] != second["digest"]
    models = admin.get("/api/v1/models").json()
    assert models == {"items": [{"name": "line", "versions": 2, "latest": 2}], "next": None}


def test_a_pushed_package_comes_back_byte_by_byte(admin: httpx.Client, push: Push, make_package: Callable[..., Path]) -> None:
    """The downloaded bytes are the pushed bytes."""
    push()
    assert admin.get("/api/v1/models/line/versions/1/package").content == make_package().read_bytes()


def test_code_needs_its_digest_to_be_allowed(admin: httpx.Client, make_package: Callable[..., Path]) -> None:
    """A package that executes code is refused with its digest; pushed with it, the version records which key allowed it."""
    data = make_package(code=True).read_bytes()
    refused = admin.post("/api/v1/packages", content=data)
    assert (refused.status_code, refused.json()["code"]) == (422, "code-not-allowed")
    digest = refused.json()["digest"]
    assert f"--allow-code {digest}" in refused.json()["hint"]
    wrong = admin.post("/api/v1/packages", params={"allow_code": "sha256:" + "0" * 64}, content=data)
    assert (wrong.status_code, wrong.json()["code"]) == (400, "wrong-digest")
    pushed = admin.post("/api/v1/packages", params={"allow_code": digest}, content=data)
    assert pushed.status_code == 201
    assert pushed.json()["allowed_by"].startswith("key-")


def test_a_flipped_bit_is_refused_and_nothing_is_registered(admin: httpx.Client, make_package: Callable[..., Path]) -> None:
    """D10 at push: damaged bytes never become a version."""
    data = bytearray(make_package().read_bytes())
    data[len(data) // 3] ^= 1
    refused = admin.post("/api/v1/packages", content=bytes(data))
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert admin.get("/api/v1/models").json()["items"] == []


@pytest.mark.parametrize("harm", ["flipped bit", "gone"])
def test_d10_pushing_again_mends_a_damaged_copy(
    control: Any, admin: httpx.Client, push: Push, make_package: Callable[..., Path], harm: str
) -> None:
    """D10: a stored package that is damaged or missing is replaced by the same package, and keeps its number."""
    digest = push()["digest"]
    stored = control.folder / "blobs" / "packages" / digest.removeprefix("sha256:")
    if harm == "gone":
        stored.unlink()
        assert admin.get("/api/v1/models/line/versions/1/package").json()["code"] == "blob-missing"
        refused = admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
        assert (refused.status_code, refused.json()["code"]) == (404, "blob-missing")
        assert "line:1" in refused.json()["detail"]
    else:
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.write_bytes(bytes(data))
    assert push()["version"] == 1
    assert stored.read_bytes() == make_package().read_bytes()
    assert list((control.folder / "blobs" / "incoming").iterdir()) == []


def test_g10_bytes_that_are_gone_are_told_and_stop_nothing_that_serves(
    control: Any, admin: httpx.Client, gateway: Any, push: Push
) -> None:
    """A version that every worker has loaded goes on serving and can be deployed; `status` names it until it is pushed again."""
    digest = push()["digest"]
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    gateway.ready(digest)
    serving(admin, "line:1")
    assert admin.get("/api/v1/status").json()["packages_gone"] == []
    (control.folder / "blobs" / "packages" / digest.removeprefix("sha256:")).unlink()
    assert admin.get("/api/v1/status").json()["packages_gone"] == ["line:1"]
    assert admin.put("/api/v1/endpoints/other", json={"version": "line:1"}).status_code in (200, 202)
    assert gateway.snapshot().json()["endpoints"]
    push()
    assert admin.get("/api/v1/status").json()["packages_gone"] == []


@pytest.mark.parametrize("path", ["line/versions/99999999999999999999", "line/versions/-1", "line/versions/0"])
def test_numbers_that_no_version_has_are_the_callers_fault(admin: httpx.Client, path: str) -> None:
    """A number that no database column can hold is refused like any unknown number."""
    assert admin.get(f"/api/v1/models/{path}").json()["code"] == "invalid-reference"


def test_pages_of_versions(admin: httpx.Client, push: Push) -> None:
    """A cursor continues after the version that it names; a cursor beyond all numbers is refused."""
    push(factor=2.0)
    push(factor=3.0)
    page = admin.get("/api/v1/models/line/versions", params={"cursor": 1}).json()
    assert [item["version"] for item in page["items"]] == [2]
    assert page["next"] is None
    refused = admin.get("/api/v1/models/line/versions", params={"cursor": 10**30})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-request")
    assert admin.get("/api/v1/models").json()["items"] == [{"name": "line", "versions": 2, "latest": 2}]


def test_size_limit_and_empty_body(admin: httpx.Client) -> None:
    """A long body is refused by its length; an empty one is refused too."""
    empty = admin.post("/api/v1/packages", content=b"")
    assert (empty.status_code, empty.json()["code"]) == (400, "empty-body")
    over = admin.post("/api/v1/packages", content=b"\0" * (33 << 20))
    assert (over.status_code, over.json()["code"]) == (413, "body-too-large")


def test_a_version_that_is_held_cannot_be_deleted_and_numbers_are_not_reused(admin: httpx.Client, push: Push) -> None:
    """Delete is refused while an endpoint holds the version; afterwards its number stays used."""
    push()
    admin.put("/api/v1/endpoints/line", json={"version": "line:1"})
    held = admin.delete("/api/v1/models/line/versions/1")
    assert (held.status_code, held.json()["code"]) == (409, "version-serving")
    assert admin.delete("/api/v1/endpoints/line").status_code == 204
    assert admin.delete("/api/v1/models/line/versions/1").status_code == 204
    assert admin.get("/api/v1/models/line/versions/1").status_code == 404
    assert push()["version"] == 2


def test_every_push_is_in_the_audit_trail(admin: httpx.Client, push: Push) -> None:
    """The entry is written in the transaction of the push."""
    document = push()
    entries = admin.get("/api/v1/audit").json()["items"]
    assert (entries[0]["verb"], entries[0]["subject"]) == ("push", "line:1")
    assert entries[0]["detail"]["digest"] == document["digest"]
