"""The conformance suite for blob stores, as checks that run on a plug-in and a new address.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_store(check, tmp_path):
        check(BlobCase(MY_STORES, "my-store:somewhere-new"), tmp_path)

A check raises AssertionError with a sentence. Each needs an address at which there is no blob yet.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.errors import NotFound, StoreError
from roadworthy.foundation.plugins import BLOBS, plugins
from roadworthy.store.blobs import BlobPlugin, BlobStore

_NAME = "packages/0123abcd"
_LARGE_BYTES = 8 << 20


@dataclass(frozen=True)
class BlobCase:
    """A plug-in under test.

    Attributes:
        plugin: what its entry point names.
        url: an address of it, at which there is nothing yet.
    """

    plugin: BlobPlugin
    url: str

    def open(self, folder: Path, control_plane: str = "one") -> BlobStore:
        """The store as a control plane opens it."""
        return self.plugin.open_store(self.url, folder / control_plane)


Check = Callable[[BlobCase, Path], None]


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def _file(store: BlobStore, data: bytes) -> Path:
    path = store.incoming()
    path.write_bytes(data)
    return path


def _read(store: BlobStore, name: str = _NAME) -> bytes:
    with store.open(name) as handle:
        return handle.read()


def check_found_by_name(case: BlobCase, folder: Path) -> None:  # noqa: ARG001  (all checks are called alike)
    """The process has the plug-in, and the address begins with its name."""
    assert plugins(BLOBS).get(case.plugin.name) is case.plugin, f"{case.plugin.name} is not found by its name"
    assert case.url.startswith(f"{case.plugin.name}:"), f"{case.url} does not begin with its name"


def check_bytes_come_back(case: BlobCase, folder: Path) -> None:
    """What was put is opened with the same bytes, also when the source is gone; the handle can seek."""
    store = case.open(folder)
    for name, data in ((_NAME, b"bytes"), ("records/g-1/a.parquet", b""), ("packages/large", b"x" * _LARGE_BYTES)):
        source = _file(store, data)
        store.put(name, source)
        source.unlink(missing_ok=True)
        assert store.exists(name), f"{name} was put and does not exist"
        assert _read(store, name) == data, f"{name} has other bytes"
    with store.open(_NAME) as handle:
        handle.seek(2)
        assert handle.read(2) == b"te", "the handle cannot seek"


def check_a_blob_never_changes(case: BlobCase, folder: Path) -> None:
    """A second blob of the same name leaves the first as it is, also when several come at once."""
    store = case.open(folder)
    sources = [_file(store, bytes([number]) * 100_000) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda source: store.put(_NAME, source), sources))
    first = _read(store)
    assert first in {bytes([number]) * 100_000 for number in range(8)}, "the blob is mixed from several sources"
    store.put(_NAME, _file(store, b"other"))
    assert _read(store) == first, "a blob was overwritten"


def check_other_control_planes_see_it(case: BlobCase, folder: Path) -> None:
    """A store that is opened again, or by another control plane, has the same blobs."""
    case.open(folder).put(_NAME, _file(case.open(folder), b"bytes"))
    assert _read(case.open(folder)) == b"bytes", "after opening it again the bytes are others"
    assert _read(case.open(folder, "two")) == b"bytes", "another control plane reads other bytes"


def check_deleted_is_gone(case: BlobCase, folder: Path) -> None:
    """After `delete` the blob does not exist, and deleting it again does nothing."""
    store = case.open(folder)
    store.put(_NAME, _file(store, b"bytes"))
    for _ in range(2):
        store.delete(_NAME)
        assert not store.exists(_NAME), "a deleted blob exists"
    try:
        store.open(_NAME)
    except NotFound:
        return
    raise AssertionError("opening a blob that does not exist raises no NotFound")


def check_strange_names_are_refused(case: BlobCase, folder: Path) -> None:
    """Names come from outside: what is not folders in lower case and a plain file name is refused with StoreError."""
    store = case.open(folder)
    source = _file(store, b"bytes")
    for name in (
        "",
        "plain",
        "../packages/a",
        "packages/../a",
        "packages/",
        "/packages/a",
        "packages/a\0",
        "Packages/a",
    ):
        for use in (lambda name: store.put(name, source), store.open, store.exists, store.delete):
            try:
                use(name)
            except StoreError:
                continue
            raise AssertionError(f"it takes the name {name!r}")


def check_incoming_names_differ(case: BlobCase, folder: Path) -> None:
    """Each file that is being received has a name of its own, in a folder that exists."""
    store = case.open(folder)
    names = {store.incoming() for _ in range(10)}
    assert len(names) == 10, "two incoming files have one name"
    assert all(name.parent.is_dir() and not name.exists() for name in names), "an incoming name cannot be written"


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_bytes_come_back,
    check_a_blob_never_changes,
    check_other_control_planes_see_it,
    check_deleted_is_gone,
    check_strange_names_are_refused,
    check_incoming_names_differ,
)
