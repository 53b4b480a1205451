"""Exit statuses, documented in docs/cli.md; scripts may depend on them."""

from __future__ import annotations

from roadworthy.foundation import errors

FAILED = 1
USAGE = 2
NOT_FOUND = 3
REFUSED = 4
UNREACHABLE = 5
NOT_ALLOWED = 6
INTERRUPTED = 130

_BY_CODE = {"unreachable": UNREACHABLE, "timed-out": UNREACHABLE, "unexpected-reply": UNREACHABLE}
_BY_CLASS: tuple[tuple[type[errors.RoadworthyError], int], ...] = (
    (errors.NotFound, NOT_FOUND),
    (errors.Conflict, REFUSED),
    (errors.PackageError, REFUSED),
    (errors.Unauthenticated, NOT_ALLOWED),
    (errors.Forbidden, NOT_ALLOWED),
    (errors.Unavailable, UNREACHABLE),
    (errors.SettingsError, USAGE),
    (errors.InvalidRequest, USAGE),
)


def exit_status(error: errors.RoadworthyError) -> int:
    """The exit status of a command that failed with this error."""
    by_class = next((status for kind, status in _BY_CLASS if isinstance(error, kind)), FAILED)
    return _BY_CODE.get(error.code, by_class)
