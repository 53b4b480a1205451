"""Every error that Roadworthy raises on purpose, as one tree.

RoadworthyError
├── InvalidRequest                 the caller sent something wrong
│   ├── InvalidInput               the rows do not fit the endpoint's signature
│   ├── MalformedBody              the body cannot be read at all
│   ├── BodyTooLarge               over a size limit (bytes or rows)
│   ├── RequestTimeout             it did not arrive in time
│   └── UnsupportedMediaType       content type or encoding that nobody here reads
├── Unauthenticated                no key, or an unknown one
├── Forbidden                      a known key without the role
├── NotFound                       nothing has that name
├── Conflict                       the state does not allow it now
├── Unavailable                    try again: not loaded, overloaded, stopping (retry_after_s)
│   └── DeadlineExceeded           the caller's time was up before there was an answer
├── ModelFault                     the model itself failed; never the caller's doing
│   └── InputRefused               a value that fits the signature and that the model refuses, as the original does
├── PackageError                   a package that must not be used
│   ├── PackageInvalid             the file or its manifest is damaged or not a package
│   ├── PackageRefused             whole, but not trusted or not runnable here
│   └── ProofFailed                its golden examples gave other answers
├── PackError                      a model that cannot be packaged as it is
├── SettingsError                  faults in the configuration, all of them at once
├── StoreError                     the database or the blob store refuses
└── ClientError                    what `roadworthy.Client` raises for a reply it cannot use

An error carries facts as attributes, a stable code, a message that is safe to show to any caller, and a hint that says what
to do next. Nothing here knows HTTP: `problems.py` and `problems.py` translate by class. Every code has a
heading in docs/errors.md; a test compares the two.
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
        retry_after_s: seconds after which the same call may work, or None when repeating it cannot help.
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
    """The body cannot be read at all."""

    code = "malformed-body"


class BodyTooLarge(InvalidRequest):
    """Over a size limit, in bytes or in rows."""

    code = "body-too-large"


class RequestTimeout(InvalidRequest):
    """The request did not arrive in time."""

    code = "request-timeout"


class UnsupportedMediaType(InvalidRequest):
    """A content type or encoding that nobody here reads."""

    code = "unsupported-media-type"


class Unauthenticated(RoadworthyError):
    """No key, or one that is not known."""

    code = "unauthenticated"


class Forbidden(RoadworthyError):
    """A known key whose role does not allow this."""

    code = "forbidden"


class NotFound(RoadworthyError):
    """Nothing has that name."""

    code = "not-found"


class Conflict(RoadworthyError):
    """The present state does not allow it."""

    code = "conflict"


class Unavailable(RoadworthyError):
    """Not now: not loaded, overloaded or stopping."""

    code = "unavailable"


class DeadlineExceeded(Unavailable):
    """The time that the caller gave was up before there was an answer."""

    code = "deadline-exceeded"


class ModelFault(RoadworthyError):
    """The model failed: an exception, a wrong shape or an unusable value. Counted against the version, never the caller."""

    code = "model-fault"


class InputRefused(ModelFault):
    """A value fits the signature, and the model refuses it as the original does. It says nothing about the version's health."""

    code = "input-refused"


def model_fault(
    message: str, code: str, hint: str | None = None, facts: Mapping[str, object] | None = None
) -> ModelFault:
    """A ModelFault that another process described, of the class that `code` belongs to."""
    kind = InputRefused if code == InputRefused.code else ModelFault
    return kind(message, code=code, hint=hint, facts=facts)


class PackageError(RoadworthyError):
    """A package that must not be used."""

    code = "package-error"


class PackageInvalid(PackageError):
    """The file or its manifest is damaged, or it is no package."""

    code = "package-invalid"


class PackageRefused(PackageError):
    """The package is whole, but not trusted, or not runnable in this environment."""

    code = "package-refused"


class ProofFailed(PackageError):
    """Replayed golden examples gave other answers; facts name the first difference."""

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
    """A reply that `roadworthy.Client` cannot turn into a result; facts["status"] is the HTTP status when there was one."""

    code = "client-error"


def let_go(error: BaseException | None) -> None:
    """Have an error that was told, and what caused it, hold no frames any more. A frame that an error passed holds all that was
    worked on there, and often the error itself: then both stay until the collector comes by, which a worker lets come rarely."""
    for _ in range(10):
        if error is None:
            return
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
