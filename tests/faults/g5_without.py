"""`python g5_without.py USER NAMES COMMAND…`: runs the command as that user on a machine without the named features.

Names, separated by commas: `unshare` (refused, as in containers), `landlock` and `seccomp` (a kernel without them),
`mounts` (refused), `capabilities` (none, even for root).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from roadworthy.foundation.confine.namespaces import no_privileges
from roadworthy.foundation.confine.system import call, number, prctl

LACKS = {
    "unshare": ("unshare", errno.EPERM),
    "landlock": ("landlock_create_ruleset", errno.ENOSYS),
    "seccomp": ("seccomp", errno.ENOSYS),
    "mounts": ("mount", errno.EPERM),
}


def refuse(name: str, code: int) -> None:
    """Make a system call fail from now on."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number(name)), (0x06, 0, 0, 0x00050000 | code), (0x06, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    call("seccomp", 1, 0, ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(text))))


def main(user: int, names: list[str], command: list[str]) -> None:
    """Drop the features, and execute the command."""
    if user != os.geteuid():
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    if "capabilities" in names:
        no_privileges()
    if names:
        prctl(38, 1)  # no_new_privs: allows any process to add filters
    for name in sorted(set(names) & set(LACKS)):  # "seccomp" comes late enough
        refuse(*LACKS[name])
    os.execv(command[0], command)  # noqa: S606 - the test's own command


if __name__ == "__main__":
    main(int(sys.argv[1]), [name for name in sys.argv[2].split(",") if name], sys.argv[3:])
