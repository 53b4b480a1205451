"""The tree of all errors that Roadworthy raises on purpose.

RoadworthyError
├── InvalidRequest                 the caller sent something wrong
│   ├── InvalidInput               the rows do not fit the endpoint's signature
│   ├── MalformedBody              the body is unreadable
│   ├── BodyTooLarge               over a size limit (bytes or rows)
│   ├── RequestTimeout             the request did not arrive in time
│   └── UnsupportedMediaType       unsupported content type or encoding
├── Unauthenticated                missing or unknown key
├── Forbidden                      a known key without the role
├── NotFound                       nothing has that name
├── Conflict                       the current state does not allow the request
├── Unavailable                    try again: not loaded, overloaded, stopping (retry_after_s)
│   └── DeadlineExceeded           the deadline passed before there was an answer
├── ModelFault                     the model itself failed; never the caller's fault
│   └── InputRefused               the model refuses a value that fits the signature, as the original model does
├── PackageError                   a package that must not be used
│   ├── PackageInvalid             the file or its manifest is damaged or not a package
│   ├── PackageRefused             intact, but not trusted or not runnable here
│   └── ProofFailed                replayed golden examples gave different answers
├── PackError                      a model that cannot be packaged as it is
├── SettingsError                  faults in the configuration, all of them at once
├── StoreError                     the database or the blob store refuses
└── ClientError                    `roadworthy.Client` cannot use a reply

An error carries facts as attributes, a stable code, a message that is safe to show to any caller, and a hint that says what
to do next. This module does not know HTTP: `gateway/http/problems.py` and `control/http/problems.py` map classes to statuses.
Every code has a heading in docs/errors.md; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping


class RoadworthyError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        code: stable, kebab-case name of the fault; callers may branch on it.
        message: one sentence, safe for any caller: no path, no traceback, no internal name.
        hint: what to do next, or None.
        facts: JSON-ready details (field names, limits, expected and found values).
        retry_after_s: seconds after which the same call may succeed, or None when repeating it cannot help.
    """

    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        facts: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.hint = hint
        self.facts = dict(facts or {})
        self.retry_after_s = retry_after_s


class InvalidRequest(RoadworthyError):
    """The caller sent something wrong."""

    code = "invalid-request"


class InvalidInput(InvalidRequest):
    """The rows do not fit the endpoint's signature. facts["fields"] names the columns."""

    code = "invalid-input"


class MalformedBody(InvalidRequest):
    """The body is unreadable."""

    code = "malformed-body"


class BodyTooLarge(InvalidRequest):
    """The body is over a size limit, in bytes or in rows."""

    code = "body-too-large"


class RequestTimeout(InvalidRequest):
    """The request did not arrive in time."""

    code = "request-timeout"


class UnsupportedMediaType(InvalidRequest):
    """The content type or encoding is not supported."""

    code = "unsupported-media-type"


class Unauthenticated(RoadworthyError):
    """The key is missing or unknown."""

    code = "unauthenticated"


class Forbidden(RoadworthyError):
    """The key is known, but its role does not allow this."""

    code = "forbidden"


class NotFound(RoadworthyError):
    """Nothing has that name."""

    code = "not-found"


class Conflict(RoadworthyError):
    """The current state does not allow the request."""

    code = "conflict"


class Unavailable(RoadworthyError):
    """The service cannot answer now: not loaded, overloaded or stopping."""

    code = "unavailable"


class DeadlineExceeded(Unavailable):
    """The request's deadline passed before there was an answer."""

    code = "deadline-exceeded"


class ModelFault(RoadworthyError):
    """The model failed: an exception, a wrong shape or an unusable value. It counts against the version, never the caller."""

    code = "model-fault"


class InputRefused(ModelFault):
    """The model refuses a value that fits the signature, as the original model does. It says nothing about the version's
    health."""

    code = "input-refused"


def model_fault(message: str, code: str, hint: str | None = None, facts: Mapping[str, object] | None = None) -> ModelFault:
    """Rebuild a ModelFault that another process described, with the class of `code`."""
    kind = InputRefused if code == InputRefused.code else ModelFault
    return kind(message, code=code, hint=hint, facts=facts)


class PackageError(RoadworthyError):
    """A package that must not be used."""

    code = "package-error"


class PackageInvalid(PackageError):
    """The file or its manifest is damaged, or not a package."""

    code = "package-invalid"


class PackageRefused(PackageError):
    """The package is intact, but not trusted or not runnable in this environment."""

    code = "package-refused"


class ProofFailed(PackageError):
    """Replayed golden examples gave different answers; facts name the first difference."""

    code = "proof-failed"


class PackError(RoadworthyError):
    """The model cannot be packaged as it is; the hint says what to change."""

    code = "pack-error"


class SettingsError(RoadworthyError):
    """Faults in the configuration; facts["faults"] lists all of them."""

    code = "settings-invalid"


class StoreError(RoadworthyError):
    """The database or the blob store refuses."""

    code = "store-error"


class ClientError(RoadworthyError):
    """`roadworthy.Client` cannot use a reply; facts["status"] is its HTTP status, if there was one."""

    code = "client-error"


def let_go(error: BaseException | None) -> None:
    """Release the frames of a reported error and of its causes. A frame of a traceback holds its local variables, and often the
    error itself; such a cycle stays until the garbage collector runs, which is rare in a worker."""
    for _ in range(10):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
