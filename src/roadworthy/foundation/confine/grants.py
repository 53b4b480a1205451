"""What a package's code may reach beside its own files: `read:PATH`, `device:PATH`, `device:nvidia`, `tcp:PORT`, `network`.

A person grants them together with the leave to run code, and the operator's setting `general.grants` bounds what can be granted.
`plan.py` opens them for each process of the package.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from roadworthy.foundation.confine.launcher import NOT_GRANTED
from roadworthy.foundation.errors import InvalidRequest, PackageRefused

FORMS = "read:/path, device:/dev/name, device:nvidia, tcp:PORT or network"
MOST_GRANTS = 32
LONGEST_GRANT = 1_000

_NVIDIA = "device:nvidia"
_NVIDIA_FOLDERS = ("/dev/nvidia-caps", "/dev/nvidia-caps-imex-channels")
_NVIDIA_READS = ("/sys/bus/pci", "/sys/module/nvidia", "/sys/module/nvidia_uvm")
_PCI = "/sys/bus/pci/devices"
_MOST_PORT = 65_535


def parse_grants(texts: Iterable[str]) -> tuple[str, ...]:
    """The same in one form, sorted, each once.

    Raises:
        InvalidRequest: "grant-invalid".
    """
    grants = tuple(sorted({_parsed(text) for text in texts}))
    if len(grants) > MOST_GRANTS:
        raise _invalid(f"there are {len(grants)} grants, and at most {MOST_GRANTS} are possible")
    return grants


def check_grants(grants: Iterable[str], allowed: Sequence[str], private: Sequence[Path]) -> None:
    """See whether all of them may be granted on this machine.

    Args:
        grants: from `parse_grants`.
        allowed: what may be granted at most, in the same form.
        private: folders and files of Roadworthy, which are never opened.

    Raises:
        PackageRefused: "grant-not-allowed".
    """
    for grant in grants:
        if _touches(grant, private):
            raise PackageRefused(
                f"{grant} would open what Roadworthy keeps for itself: keys, packages, records",
                code="grant-not-allowed",
                hint="put what the model reads into a folder of its own, and grant that folder",
                facts={"grant": grant},
            )
        if not any(_covers(each, grant) for each in allowed):
            raise not_allowed(grant)


def not_allowed(grant: str) -> PackageRefused:
    """What to tell of a grant that is beyond the machine's setting."""
    return PackageRefused(
        f"the grant {grant} is more than this machine lets packages have",
        code="grant-not-allowed",
        hint="general.grants (ROADWORTHY_GRANTS) of the control plane and of every gateway says what may be granted; what "
        "belongs to Roadworthy never is",
        facts={"grant": grant},
    )


def openings(grants: Sequence[str], allowed: Sequence[str], private: Sequence[Path]) -> dict[str, Any]:
    """What the grants add to a plan; arguments as for `check_grants`. With one that may not be granted here none is opened, and
    the launcher tells the process to execute none of the package's code."""
    try:
        check_grants(grants, allowed, private)
    except PackageRefused as refused:
        return {"refused": f"{NOT_GRANTED}{refused.facts['grant']}"}
    named = [grant.partition(":")[::2] for grant in grants if grant != _NVIDIA]
    devices = [os.path.realpath(what) for kind, what in named if kind == "device"]
    if _NVIDIA in grants:
        devices += _nvidia_devices()
    ports = [int(what) for kind, what in named if kind == "tcp"]
    return {
        "granted": {"read": [os.path.realpath(what) for kind, what in named if kind == "read"], "device": devices},
        "beside": [*_NVIDIA_READS, *_nvidia_on_pci()] if _NVIDIA in grants else [],
        "network": "any" if "network" in grants else ports or None,
    }


def _parsed(text: str) -> str:
    kind, _, what = text.partition(":")
    if text in ("network", _NVIDIA):
        return text
    if kind == "tcp" and what.isascii() and what.isdecimal() and what[0] != "0" and len(what) <= 5:
        if int(what) <= _MOST_PORT:
            return text
    elif kind in ("read", "device") and what.startswith("/") and what.isprintable() and len(text) <= LONGEST_GRANT:
        parts = [part for part in what.split("/") if part not in ("", ".")]
        path = "/" + "/".join(parts)
        is_device = parts[:1] == ["dev"]
        if ".." not in parts and is_device == (kind == "device") and (kind == "read" or len(parts) > 1):
            return f"{kind}:{path}"
    shown = text if text.isprintable() and len(text) <= LONGEST_GRANT else "something else"
    raise _invalid(f"a grant has the form {FORMS}; got {shown}")


def _invalid(message: str) -> InvalidRequest:
    hint = "paths are whole and hold no '..', and what lies in /dev is granted as a device"
    return InvalidRequest(message, code="grant-invalid", hint=hint)


def _covers(bound: str, grant: str) -> bool:
    """Whether what may be granted holds the grant. Links are followed in both, so that one inside a folder leads nowhere else."""
    kind, _, what = grant.partition(":")
    bound_kind, _, most = bound.partition(":")
    if bound == grant or (bound == "network" and kind == "tcp"):
        return True
    if kind == bound_kind == "read":
        return _is_below(os.path.realpath(what), os.path.realpath(most))
    return bound == _NVIDIA and kind == "device" and os.path.realpath(what) in _nvidia_devices()


def _touches(grant: str, private: Iterable[Path]) -> bool:
    kind, _, what = grant.partition(":")
    if kind != "read":
        return False
    path = os.path.realpath(what)
    kept = [os.path.realpath(each) for each in private]
    return any(_is_below(path, each) or _is_below(each, path) for each in kept)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _nvidia_devices() -> list[str]:
    """Those that are there; the one without which there is none where none is, so that its absence is told."""
    names = [entry.path for entry in _entries("/dev") if entry.name.startswith("nvidia") and not entry.is_dir()]
    below = [entry.path for folder in _NVIDIA_FOLDERS for entry in _entries(folder)]
    return [os.path.realpath(path) for path in sorted([*names, *below])] or ["/dev/nvidiactl"]


def _nvidia_on_pci() -> list[str]:
    """Where the kernel describes the devices whose driver is NVIDIA's."""
    return [
        os.path.realpath(entry.path)
        for entry in _entries(_PCI)
        if os.path.basename(os.path.realpath(f"{entry.path}/driver")).startswith("nvidia")  # noqa: PTH119 - texts throughout
    ]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []
