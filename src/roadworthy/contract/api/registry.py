"""Models and their versions."""

from __future__ import annotations

from roadworthy.contract.api.operation import READ, RELEASE, Count, Document, Name, Operation, Page, Resource, Time


class Model(Resource, frozen=True, kw_only=True):
    """A model: the number of its versions, and the latest one's number."""

    name: Name
    versions: Count
    latest: Count


class Version(Resource, frozen=True, kw_only=True):
    """A registered package.

    Attributes:
        allowed_by: who allowed its code to run; None if it may not.
        grants: what its code may access in addition to its own files.
        serving: the endpoints that hold it.
    """

    name: Name
    version: Count
    digest: str
    size_bytes: Count
    pushed_at: Time
    pushed_by: str
    runtimes: list[str]
    allowed_by: str | None
    grants: list[str]
    signature: Document
    serving: list[Name]


_VERSIONS = "/api/v1/models/{name}/versions"
_VERSION = f"{_VERSIONS}/{{version}}"
PUSH = Operation(
    "push_package",
    "POST",
    "/api/v1/packages",
    "Push a package",
    RELEASE,
    Version,
    bytes,
    201,
    {200: "The package already is a version"},
)
LIST_MODELS = Operation("list_models", "GET", "/api/v1/models", "List models", READ, Page[Model])
LIST_VERSIONS = Operation("list_versions", "GET", _VERSIONS, "List versions of a model", READ, Page[Version])
GET_VERSION = Operation("get_version", "GET", _VERSION, "Get a version", READ, Version)
DOWNLOAD = Operation("download_package", "GET", f"{_VERSION}/package", "Download a version's package", READ, bytes)
DELETE_VERSION = Operation("delete_version", "DELETE", _VERSION, "Delete a version", RELEASE, type(None), status=204)
