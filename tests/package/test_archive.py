"""Opening a package checks everything before anything is written; hostile files are refused and leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.package.archive import MAX_MEMBERS, open_package, open_profile, pack_file, unpack
from roadworthy.package.manifest import MANIFEST
from roadworthy.package.package import Package

Unpacked = Callable[[Package], Package]
Members = list[tuple[zipfile.ZipInfo, bytes]]


def members_of(package: Package) -> Members:
    """The members of a packed file, to be changed."""
    with zipfile.ZipFile(package.path) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def member(name: str, data: bytes = b"x", kind: int = stat.S_IFREG) -> tuple[zipfile.ZipInfo, bytes]:
    """A stored member of any name and kind."""
    info = zipfile.ZipInfo("x")
    info.filename = name
    info.external_attr = (kind | 0o644) << 16
    return info, data


def write(path: Path, members: Members) -> Path:
    """Write a zip of exactly these members, in this order."""
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            archive.writestr(info, data)
    return path


def refused(path: Path, target: Path) -> PackageInvalid:
    """The refusal of a file by open_package and unpack; checks that nothing was written."""
    with pytest.raises(PackageInvalid) as opening:
        open_package(path)
    with pytest.raises(PackageInvalid) as unpacking:
        unpack(path, target / "inside" / "package")
    assert opening.value.code == unpacking.value.code
    assert opening.value.hint
    assert str(target) not in opening.value.message
    assert not target.exists(), "something was written"
    return opening.value


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "a/../../evil", "/etc/evil", "C:\\evil", "a\\..\\evil", "./evil", "a//evil", ".hidden", "a/.hidden",
        "evil.", "evil ", "ev\u0131l", "nul\x01", "-rf", "a" * 500, "/".join("a" * 30), "a\nb",
    ],
)  # fmt: skip
def test_f10_harmful_names_are_refused(name: str, graph_package: Package, tmp_path: Path) -> None:
    """Names that climb, are absolute, hidden, of another operating system, or too long."""
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member(name)])
    assert refused(file, tmp_path / "target").code == "unsafe-name"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFDIR])
def test_f10_links_and_special_members_are_refused(kind: int, graph_package: Package, tmp_path: Path) -> None:
    """A link, a pipe, a device, a folder: only plain files are members."""
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member("link", b"/etc/passwd", kind)])
    assert refused(file, tmp_path / "target").code == "unsafe-member"


@pytest.mark.parametrize("name", ["profile.json", "PROFILE.json", "attestations/PROOF.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_f10_a_name_twice_is_refused(name: str, graph_package: Package, tmp_path: Path) -> None:
    """A duplicate name, or one that differs only in case."""
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member(name, b"{}")])
    assert refused(file, tmp_path / "target").code == "unsafe-member"


def test_f10_a_compressed_bomb_is_refused(graph_package: Package, tmp_path: Path) -> None:
    """A compressed member is refused for its header, without being expanded."""
    info, data = member("bomb", bytes(50 << 20))
    info.compress_type = zipfile.ZIP_DEFLATED
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), (info, data)])
    assert file.stat().st_size < 1 << 20
    assert refused(file, tmp_path / "target").code == "unsafe-member"


@pytest.mark.parametrize("bit", [0, 3, 5, 6, 13])
def test_f10_members_with_flags_are_refused(bit: int, graph_package: Package, tmp_path: Path) -> None:
    """Encrypted, streamed, patched or masked members, by the flags of the zip's directory."""
    data = bytearray(graph_package.path.read_bytes())
    with zipfile.ZipFile(graph_package.path) as archive:
        place = archive.start_dir + 8 + bit // 8
    data[place] ^= 1 << bit % 8
    file = tmp_path / "evil.rw"
    file.write_bytes(data)
    assert refused(file, tmp_path / "target").code == "unsafe-member"


def test_f10_overlapping_members_are_refused(graph_package: Package, tmp_path: Path) -> None:
    """Members that together claim more bytes than the file has: the other kind of bomb."""
    file = tmp_path / "evil.rw"
    write(file, [*members_of(graph_package), *(member(f"m{n}", bytes(4000)) for n in range(3))])
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        first = archive.getinfo("m0").header_offset
        place = archive.start_dir
    for _ in range(len(members_of(graph_package)) + 3):
        length = 46 + sum(int.from_bytes(data[place + at : place + at + 2], "little") for at in (28, 30, 32))
        if data[place + 46 : place + 47] == b"m" and data[place + 47 : place + 48].isdigit():
            data[place + 42 : place + 46] = first.to_bytes(4, "little")
        place += length
    file.write_bytes(data)
    refused(file, tmp_path / "target")


def test_f10_too_many_members_are_refused(graph_package: Package, tmp_path: Path) -> None:
    """An excessive list of members is not processed."""
    extra = [member(f"m{n}", b"") for n in range(MAX_MEMBERS + 1)]
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), *extra])
    assert refused(file, tmp_path / "target").code == "not-a-package"


@pytest.mark.parametrize("name", ["more.txt", "attestations/x.txt", "attestations/deep/x.json", "runtimes/native/x.so"])
def test_f12_an_unlisted_member_is_refused(name: str, graph_package: Package, tmp_path: Path) -> None:
    """A package may not contain files that the manifest does not list."""
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member(name)])
    assert refused(file, tmp_path / "target").code == "unsafe-member"


def test_f12_a_missing_member_is_refused(graph_package: Package, tmp_path: Path) -> None:
    """Every member that the manifest lists must exist, and the manifest itself."""
    members = members_of(graph_package)
    for number, (info, _) in enumerate(members):
        if info.filename.startswith("attestations/"):
            continue
        file = write(tmp_path / "evil.rw", members[:number] + members[number + 1 :])
        expected = "not-a-package" if info.filename == MANIFEST else "package-damaged"
        assert refused(file, tmp_path / "target").code == expected


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1], lambda _: b""])
def test_f12_a_member_of_another_size_is_refused(change: Any, graph_package: Package, tmp_path: Path) -> None:
    """One byte more, one byte less, zero bytes."""
    members = [(i, change(d) if i.filename == "profile.json" else d) for i, d in members_of(graph_package)]
    error = refused(write(tmp_path / "evil.rw", members), tmp_path / "target")
    assert (error.code, error.facts) == ("package-damaged", {"file": "profile.json"})


def test_f12_members_of_another_package_are_refused(graph_package: Package, compiled_package: Package, tmp_path: Path) -> None:
    """The manifest of one package with the files, or the attestations, of another."""
    manifest = {i.filename: d for i, d in members_of(compiled_package)}[MANIFEST]
    members = [(i, manifest if i.filename == MANIFEST else d) for i, d in members_of(graph_package)]
    assert refused(write(tmp_path / "evil.rw", members), tmp_path / "target").code == "package-damaged"
    proof = {i.filename: d for i, d in members_of(compiled_package)}["attestations/proof.json"]
    members = [(i, proof if i.filename == "attestations/proof.json" else d) for i, d in members_of(graph_package)]
    assert refused(write(tmp_path / "evil.rw", members), tmp_path / "target").code == "attestation-invalid"


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", b"PK\x05\x06" + bytes(18), bytes(4096)])
def test_what_is_no_package_is_refused(data: bytes, tmp_path: Path) -> None:
    """Empty, truncated, of another kind, or an empty zip."""
    file = tmp_path / "evil.rw"
    file.write_bytes(data)
    assert refused(file, tmp_path / "target").code == "not-a-package"
    assert refused(tmp_path / "nothing.rw", tmp_path / "target").code == "not-a-package"


def test_a_folder_with_a_link_is_refused(graph_package: Package, unpacked: Unpacked, tmp_path: Path) -> None:
    """An unpacked package is checked as strictly as a packed one."""
    folder = unpacked(graph_package).path
    (folder / "profile.json").rename(tmp_path / "elsewhere.json")
    (folder / "profile.json").symlink_to(tmp_path / "elsewhere.json")
    assert refused(folder, tmp_path / "target").code == "unsafe-member"
    (folder / "profile.json").unlink()
    os.mkfifo(folder / "profile.json")
    assert refused(folder, tmp_path / "target").code == "unsafe-member"


def test_d10_a_flipped_bit_in_any_member_is_refused(graph_package: Package, tmp_path: Path) -> None:
    """One bit anywhere in the bytes of any member: refused. In the zip's own fields: refused, or no member is another."""
    whole = graph_package.path.read_bytes()
    said = {name: graph_package.files.open(name).read() for name in graph_package.files.sizes()}
    inside = set()
    with zipfile.ZipFile(graph_package.path) as archive:
        for info in archive.infolist():
            head = whole[info.header_offset : info.header_offset + 30]
            start = info.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            inside.update(range(start, start + info.file_size))
    file, silent = tmp_path / "flipped.rw", 0
    for place in [*range(0, len(whole), 29), *(n for n in range(0, len(whole), 3) if n not in inside)]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        try:
            package = open_package(file)
        except PackageInvalid:
            continue
        assert place not in inside
        assert {name: package.files.open(name).read() for name in package.files.sizes()} == said
        silent += 1
    assert silent < len(whole) - len(inside)


def test_d10_a_flipped_bit_in_a_folder_is_refused(graph_package: Package, unpacked: Unpacked) -> None:
    """The same for every sealed file of an unpacked package."""
    folder = unpacked(graph_package).path
    for entry in graph_package.manifest.files:
        data = (folder / entry.path).read_bytes()
        middle = len(data) // 2
        (folder / entry.path).write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        with pytest.raises(PackageInvalid) as found:
            open_package(folder)
        assert (found.value.code, found.value.facts) == ("package-damaged", {"file": entry.path})
        (folder / entry.path).write_bytes(data)
    assert open_package(folder).digest == graph_package.digest


def test_a_file_that_changes_after_opening_is_noticed(graph_package: Package, unpacked: Unpacked) -> None:
    """Reading checks the hash again, so that only verified bytes are used."""
    package = unpacked(graph_package)
    (package.path / "golden" / "inputs.arrow").write_bytes(b"x")
    with pytest.raises(PackageInvalid) as found:
        package.golden()
    assert found.value.code == "package-damaged"


def test_a_profile_is_read_out_of_a_stored_package(graph_package: Package, tmp_path: Path) -> None:
    """From an open file, without reading other members; a changed profile and a file that is no package are noticed."""
    with graph_package.path.open("rb") as stored:
        assert open_profile(stored) == graph_package.profile
    data = graph_package.path.read_bytes()
    for wrong in (data.replace(b'"rows":40', b'"rows":41'), b"no zip at all", b""):
        changed = tmp_path / "changed.rw"
        changed.write_bytes(wrong)
        with changed.open("rb") as stored, pytest.raises(PackageInvalid):
            open_profile(stored)


def test_packing_twice_gives_the_same_bytes(graph_package: Package, unpacked: Unpacked, tmp_path: Path) -> None:
    """Times, modes and the order of files on disk have no effect."""
    folder = unpacked(graph_package).path
    one = pack_file(folder, tmp_path / "one.rw").path.read_bytes()
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    assert pack_file(copy, tmp_path / "two.rw").path.read_bytes() == one == graph_package.path.read_bytes()


def test_unpacking_again_keeps_what_is_there(graph_package: Package, tmp_path: Path) -> None:
    """An equal package stays unchanged; a damaged or different one is an error."""
    folder = tmp_path / "package"
    unpack(graph_package.path, folder)
    before = (folder / MANIFEST).stat().st_ino
    assert unpack(graph_package.path, folder).digest == graph_package.digest
    assert (folder / MANIFEST).stat().st_ino == before
    (folder / "profile.json").write_bytes(b"{}")
    with pytest.raises(PackageInvalid):
        unpack(graph_package.path, folder)


def test_another_package_in_the_folder_is_no_success(graph_package: Package, compiled_package: Package, tmp_path: Path) -> None:
    """Unpacking a package never yields another one."""
    unpack(compiled_package.path, tmp_path / "package")
    with pytest.raises(PackageInvalid) as found:
        unpack(graph_package.path, tmp_path / "package")
    assert found.value.code == "package-damaged"


@pytest.mark.parametrize("garbage", [b"", b"ARROW1", b"ARROW1\0\0" + bytes(64) + b"ARROW1", b"{}", b"\xff" * 300])
def test_sealed_garbage_is_refused_where_it_is_read(
    garbage: bytes, graph_package: Package, unpacked: Unpacked, sealed: Any
) -> None:
    """Right hashes do not imply valid contents: golden examples, card and profile are checked on reading."""
    folder = unpacked(graph_package).path
    for name in ("golden/inputs.arrow", "card.json", "profile.json"):
        (folder / name).write_bytes(garbage if name.endswith("arrow") else b"[" + garbage)
    package = sealed(folder)
    for read in (package.golden, lambda: package.card, lambda: package.profile):
        with pytest.raises(PackageInvalid):
            read()


def test_attestations_are_bounded(graph_package: Package, tmp_path: Path) -> None:
    """Attestations are not sealed, so their number and size have their own limits."""
    document = canonical_json({"digest": graph_package.digest})
    many = [member(f"attestations/s{n}.json", document) for n in range(65)]
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), *many])
    assert refused(file, tmp_path / "target").code == "not-a-package"
    large = json.dumps({"digest": graph_package.digest, "more": "x" * (1 << 20)}).encode()
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member("attestations/s.json", large)])
    assert refused(file, tmp_path / "target").code == "unsafe-member"
    deep = b"[" * 100_000
    file = write(tmp_path / "evil.rw", [*members_of(graph_package), member("attestations/s.json", deep)])
    assert refused(file, tmp_path / "target").code == "attestation-invalid"
