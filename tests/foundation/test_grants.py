"""Which grants exist, and what they add to a plan."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.confine.grants import LONGEST_GRANT, MOST_GRANTS, check_grants, parse_grants
from roadworthy.foundation.confine.plan import Bounds, make_plan, refusal
from roadworthy.foundation.errors import InvalidRequest, PackageRefused

NAMES = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="/"), min_size=1, max_size=20).filter(
    lambda name: name.isprintable() and name not in (".", "..", "dev")
)
PATHS = st.lists(NAMES, max_size=6).map(lambda parts: "/" + "/".join(parts))
GOOD = st.one_of(
    PATHS.map("read:{}".format),
    NAMES.map("device:/dev/{}".format),
    st.integers(1, 65_535).map("tcp:{}".format),
    st.sampled_from(["network", "device:nvidia"]),
)


@given(st.lists(GOOD, max_size=MOST_GRANTS))
def test_grants_have_one_form(texts: list[str]) -> None:
    """Sorted, without duplicates; parsing them again changes nothing, in whatever order they are given."""
    grants = parse_grants(texts)
    assert list(grants) == sorted(set(texts))
    assert parse_grants(reversed(grants)) == grants


@given(st.text(max_size=40))
def test_any_text_is_a_grant_or_is_refused(text: str) -> None:
    """An accepted text is in canonical form; no other error is raised."""
    for whole in (text, f"read:{text}", f"read:/{text}", f"device:/dev/{text}", f"tcp:{text}"):
        with contextlib.suppress(InvalidRequest):
            (grant,) = parse_grants([whole])
            assert parse_grants([grant]) == (grant,)
            assert "/../" not in f"{grant}/"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "read",
            "read:",
            "read:data",
            "read:~/data",
            "read:/data/../etc",
            "read:/dev",
            "read:/dev/sda",
            "read:/a\nb",
        ),
        *("read:/\udc80", "device", "device:", "device:/dev", "device:/data", "device:/dev/../etc", "device:intel"),
        *(
            "tcp",
            "tcp:",
            "tcp:0",
            "tcp:065",
            "tcp:65536",
            "tcp:٣",
            "tcp:1-9",
            "tcp:-1",
            "udp:53",
            "network:",
            "network:x",
        ),
        *("Network", " network", "write:/data", f"read:/{'a' * LONGEST_GRANT}"),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    """The error names the allowed forms, and repeats no unprintable text."""
    with pytest.raises(InvalidRequest, match="device:nvidia") as refused:
        parse_grants([text])
    assert refused.value.code == "grant-invalid"
    assert refused.value.message.isprintable()


def test_paths_are_taken_without_what_says_nothing() -> None:
    """Without a slash at the end, double slashes, and dots."""
    assert parse_grants(["read:/data//rates/./", "read:/data/rates", "read:///"]) == ("read:/", "read:/data/rates")


def test_there_are_not_too_many() -> None:
    """Plans are bounded."""
    with pytest.raises(InvalidRequest, match=f"at most {MOST_GRANTS}"):
        parse_grants(f"tcp:{port}" for port in range(1, MOST_GRANTS + 2))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a file, and links: to the file, and out of the folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rates.csv").write_text("1")
    (folder / "newest").symlink_to("rates.csv")
    (folder / "out").symlink_to(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "context.json").write_text("key")
    (tmp_path / "link").symlink_to(folder)
    return folder


def allowed(grant: str, *bounds: str, private: tuple[Path, ...] = ()) -> bool:
    """Whether it may be granted within the bounds."""
    with contextlib.suppress(PackageRefused):
        check_grants(parse_grants([grant]), parse_grants(bounds), private)
        return True
    return False


def test_nothing_is_allowed_unless_the_setting_says_so(data: Path) -> None:
    """Each kind separately; the whole network includes each port; a folder includes its content."""
    for grant in (f"read:{data}", "device:/dev/fuse", "device:nvidia", "tcp:5432", "network"):
        assert not allowed(grant)
        assert allowed(grant, grant)
    assert allowed(f"read:{data}/rates.csv", f"read:{data}")
    assert not allowed(f"read:{data}", f"read:{data}/rates.csv")
    assert not allowed(f"read:{data}2", f"read:{data}")
    assert allowed("tcp:5432", "network")
    assert not allowed("tcp:5432", "tcp:5433", "tcp:54", f"read:{data}", "device:nvidia")
    assert not allowed("network", "tcp:5432")
    assert not allowed("device:/dev/fuse", "device:nvidia", "read:/", "network")


def test_a_link_leads_no_further_than_the_setting(data: Path, tmp_path: Path) -> None:
    """Links are resolved, in the grant and in the setting."""
    assert allowed(f"read:{data}/newest", f"read:{data}")
    assert allowed(f"read:{tmp_path}/link/rates.csv", f"read:{data}")
    assert allowed(f"read:{data}/rates.csv", f"read:{tmp_path}/link")
    assert not allowed(f"read:{data}/out", f"read:{data}")
    assert not allowed(f"read:{data}/out/context.json", f"read:{data}")


def test_what_is_roadworthys_own_is_never_granted(data: Path, tmp_path: Path) -> None:
    """The home, its content, and folders that contain it, by any path; even if the setting allows everything."""
    home = (tmp_path / "home",)
    for path in (tmp_path, tmp_path / "home", tmp_path / "home" / "context.json", data / "out", "/"):
        assert allowed(f"read:{path}", "read:/")
        assert not allowed(f"read:{path}", "read:/", private=home)
    assert allowed(f"read:{data}", "read:/", private=home)
    assert not allowed(f"read:{data}", "read:/", private=(data / "rates.csv",))


def plan(folder: Path, grants: tuple[str, ...], bounds: Bounds) -> dict[str, object]:
    """Of a process with these grants."""
    return make_plan(package=folder, write=folder, place="x", grants=grants, bounds=bounds)


def test_a_plan_opens_what_was_granted_and_no_more(data: Path) -> None:
    """Links are resolved once, when the plan is made; the network has three levels."""
    grants = parse_grants([f"read:{data}/newest", "device:/dev/null", "tcp:5432", "tcp:443"])
    made = plan(data, grants, Bounds(grants=grants))
    assert made["granted"] == {"read": [str((data / "rates.csv").resolve())], "device": ["/dev/null"]}
    assert made["network"] == [443, 5432]
    nothing = plan(data, (), Bounds(grants=grants))
    assert (nothing["granted"], nothing["network"]) == ({"read": [], "device": []}, None)
    assert made["read"] == nothing["read"]
    assert plan(data, ("network", "tcp:1"), Bounds(grants=("network",)))["network"] == "any"


def test_a_plan_beyond_the_bounds_opens_nothing_of_it(data: Path) -> None:
    """Not even the allowed grants, and the process learns which grant is refused."""
    made = plan(data, ("network", f"read:{data}"), Bounds(grants=("network",)))
    assert "granted" not in made
    assert "network" not in made
    refused = refusal([str(made["refused"])])
    assert refused is not None
    assert (refused.code, refused.facts) == ("grant-not-allowed", {"grant": f"read:{data}"})
    assert "general.grants" in (refused.hint or "")


def test_nvidia_is_what_is_there(tmp_path: Path) -> None:
    """Its devices, and the kernel's descriptions of them; without any, the device that every driver makes is missing."""
    found = make_plan(
        package=tmp_path, write=tmp_path, place="x", grants=("device:nvidia",), bounds=Bounds(grants=("device:nvidia",))
    )
    devices = found["granted"]["device"]
    assert devices
    assert all(path.startswith("/dev/nvidia") for path in devices)
    assert "/sys/bus/pci" in found["read"]
