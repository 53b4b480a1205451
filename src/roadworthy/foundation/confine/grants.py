"""Grants: what a package's code may reach in addition to its own files. `read:PATH`, `device:PATH`, `device:nvidia`, `tcp:PORT`
or `network`.

A person gives grants together with the permission to run code; the operator's setting `general.grants` limits them. `plan.py`
opens what is granted for each process of the package.
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
    """Normalise grants: each in its canonical form, sorted, without duplicates.

    Raises:
        InvalidRequest: code "grant-invalid".
    """
    grants = tuple(sorted({_parsed(text) for text in texts}))
    if len(grants) > MOST_GRANTS:
        raise _invalid(f"too many grants: {len(grants)}, at most {MOST_GRANTS} are allowed")
    return grants


def check_grants(grants: Iterable[str], allowed: Sequence[str], private: Sequence[Path]) -> None:
    """Check that this machine allows all grants.

    Args:
        grants: from `parse_grants`.
        allowed: the grants that the machine allows, in the same form.
        private: folders and files of Roadworthy, which are never opened.

    Raises:
        PackageRefused: code "grant-not-allowed".
    """
    for grant in grants:
        if _touches(grant, private):
            raise PackageRefused(
                f"{grant} would open private files of Roadworthy: keys, packages, records",
                code="grant-not-allowed",
                hint="put the files that the model reads into a separate folder, and grant that folder",
                facts={"grant": grant},
            )
        if not any(_covers(each, grant) for each in allowed):
            raise not_allowed(grant)


def not_allowed(grant: str) -> PackageRefused:
    """The error for a grant that the machine's settings do not allow."""
    return PackageRefused(
        f"this machine does not allow the grant {grant}",
        code="grant-not-allowed",
        hint="allow it by the setting general.grants (ROADWORTHY_GRANTS) of the control plane and of every gateway; private "
        "files of Roadworthy can never be granted",
        facts={"grant": grant},
    )


def openings(grants: Sequence[str], allowed: Sequence[str], private: Sequence[Path]) -> dict[str, Any]:
    """What the grants add to a plan; arguments as for `check_grants`. If any grant is not allowed here, nothing is opened, and
    the launcher instructs the process to execute none of the package's code."""
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
        "driver": [*_NVIDIA_READS, *_nvidia_on_pci()] if _NVIDIA in grants else [],
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
    shown = text if text.isprintable() and len(text) <= LONGEST_GRANT else "a text that is too long or not printable"
    raise _invalid(f"a grant has the form {FORMS}; got {shown}")


def _invalid(message: str) -> InvalidRequest:
    hint = "write an absolute path without '..'; grant what is in /dev as a device"
    return InvalidRequest(message, code="grant-invalid", hint=hint)


def _covers(bound: str, grant: str) -> bool:
    """Whether the allowed grant `bound` covers `grant`. Links are resolved in both, so that a link inside an allowed folder does
    not lead out of it."""
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
    """The NVIDIA devices of this machine; without any, the one that every driver creates, so that it is reported
    missing."""
    names = [entry.path for entry in _entries("/dev") if entry.name.startswith("nvidia") and not entry.is_dir()]
    below = [entry.path for folder in _NVIDIA_FOLDERS for entry in _entries(folder)]
    return [os.path.realpath(path) for path in sorted([*names, *below])] or ["/dev/nvidiactl"]


def _nvidia_on_pci() -> list[str]:
    """The kernel's descriptions of the devices with an NVIDIA driver."""
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
