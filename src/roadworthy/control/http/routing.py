"""Makes routes of the operations that `contract/api` describes: reads the body, finds the project, and writes the reply.

Each file of routes gives a function for each operation. Its arguments are what the path and the query name, `body` for the
request's document, `principal` for the caller, and `context`: that of the principal's project.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, get_type_hints

import msgspec
import structlog
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi

from roadworthy.access.principal import Principal
from roadworthy.contract.api.feedback import KnownLater
from roadworthy.contract.api.operation import OPEN, Operation
from roadworthy.contract.api.problem import Problem
from roadworthy.control.context import ControlContext, asked_with
from roadworthy.control.http.problems import PROBLEM_JSON, invalid_fields
from roadworthy.control.resources import idempotency
from roadworthy.foundation.documents import Reader
from roadworthy.foundation.errors import Unavailable
from roadworthy.foundation.keys import hash_key

OCTETS = "application/octet-stream"
_REF = "#/components/schemas/{name}"
R = TypeVar("R")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Replied(Generic[R]):
    """A reply with another status than the operation's usual one."""

    document: R
    status: int


class Routes:
    """The routes of some operations.

    Args:
        tag: groups them in the API's description.
        root: the context of any project; requests without a key get it.
    """

    def __init__(self, tag: str, root: ControlContext) -> None:
        self.router = APIRouter(tags=[tag])
        self.operations: list[Operation[Any]] = []
        self._root = root

    def _context(self, principal: Principal | None) -> ControlContext:
        if principal is None:
            return self._root
        found = self._root.projects[principal.project]
        if not found.publisher.readable:
            raise found.publisher.fault()
        return found

    def add(
        self, operation: Operation[R]
    ) -> Callable[[Callable[..., R | Replied[R] | Response | Awaitable[R | Replied[R] | Response]]], None]:
        """Let the decorated function answer the operation. Its docstring describes the operation."""

        def register(function: Callable[..., Any]) -> None:
            self.operations.append(operation)
            self.router.add_api_route(
                operation.path,
                self._endpoint(operation, function),
                methods=[operation.method],
                operation_id=operation.name,
                summary=operation.summary,
                description=inspect.getdoc(function),
                status_code=operation.status,
                response_model=None,
            )

        return register

    async def once(
        self, operation: Operation[Any], request: Request, digest: str, act: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Carry out a request, or repeat the reply to it if it has an idempotency key that was used before.

        Args:
            digest: of the request's body.
        """
        key = request.headers.get("idempotency-key")
        if key is None or not operation.takes_idempotency_key:
            return await act()
        principal = request.state.principal
        taken, context = idempotency.key_id(principal, operation, key), self._context(principal)
        asked = hash_key(f"{request.url.path}?{request.url.query}\n{digest}")
        found = await run_in_threadpool(idempotency.take, context, taken, asked, repeatable=operation.repeatable)
        if found is not None:
            return Response(found.body, found.status, {"Idempotent-Replayed": "true"}, "application/json")
        asking = asked_with.set(None if operation.repeatable else taken)
        try:
            reply = await act()
            kept = None if operation.shown_once or operation.repeatable else bytes(reply.body).decode()
            await self._settle(idempotency.keep, context, taken, reply.status_code, kept)
        except Exception:
            await self._settle(idempotency.give_back, context, taken)
            raise
        finally:
            asked_with.reset(asking)
            context.under_way.discard(taken)
        return reply

    async def _settle(self, settle: Callable[..., None], *given: object) -> None:
        """Do what an idempotency key needs after its request. The request is over, so an error here does not change its reply."""
        try:
            await run_in_threadpool(settle, *given)
        except Unavailable as error:
            _log.warning("idempotency-key-not-settled", code=error.code)

    def _endpoint(self, operation: Operation[Any], function: Callable[..., Any]) -> Callable[..., Awaitable[Response]]:
        """The function that FastAPI calls: with the request, and with what the path and the query name."""
        hints = get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters
        wanted = {"body", "context", "principal", "request"} & parameters.keys()
        streams = operation.body is not None and "body" not in wanted  # its route receives a file, within a bound of its own

        async def call(request: Request, **values: Any) -> Response:
            principal = request.state.principal
            given = {"request": request, "principal": principal, "context": self._context(principal)}
            raw = b"" if streams else await request.body()
            if "body" in wanted and operation.body is not None:
                given["body"] = read_body(operation.body, raw)
            values |= {name: given[name] for name in wanted}

            async def act() -> Response:
                answer = function(**values) if inspect.iscoroutinefunction(function) else run_in_threadpool(function, **values)
                return reply_of(operation, await answer)

            if streams:
                return await act()
            return await self.once(operation, request, hashlib.sha256(raw).hexdigest(), act)

        named = [each.replace(annotation=hints[name]) for name, each in parameters.items() if name not in wanted]
        own = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)
        call.__signature__ = inspect.Signature([own, *named])  # type: ignore[attr-defined]  # what FastAPI reads
        return call


def reply_of(operation: Operation[Any], result: Any) -> Response:
    """The reply with an operation's result."""
    if isinstance(result, Response):
        return result
    document, status = (result.document, result.status) if isinstance(result, Replied) else (result, operation.status)
    if document is None:
        return Response(status_code=status)
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def read_body(kind: type[Any], raw: bytes) -> Any:
    """A request's document as its type.

    Raises:
        InvalidInput: "invalid-request": it is not JSON, or has faults; facts["fields"] has each with its place.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise invalid_fields([("", f"expected a JSON object; the body is not valid JSON: {error}")]) from error
    reader = Reader()
    found = reader.table(kind, document)
    if reader.faults:
        raise invalid_fields([(fault.path, fault.problem) for fault in reader.faults])
    return msgspec.convert(found, kind)


def describe(app: FastAPI, operations: Iterable[Operation[Any]]) -> dict[str, Any]:
    """The OpenAPI document of the application: FastAPI knows paths and queries, the operations know bodies and replies."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    described = list(operations)
    kinds = {kind for each in described for kind in (*each.kinds, each.body) if kind not in (None, bytes, type(None))}
    ordered = sorted({*kinds, KnownLater, Problem}, key=str)
    references, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schemas = dict(zip(ordered, references, strict=True))
    for each in described:
        operation = document["paths"][each.path.replace(":path}", "}")][each.method.lower()]
        if each.body is not None:
            operation["requestBody"] = {"required": True, "content": _content([each.body], schemas)}
        usual = {each.status: operation["responses"][str(each.status)]["description"]}
        operation["responses"] = {
            str(status): {"description": text, **({"content": content} if (content := _content(each.kinds, schemas)) else {})}
            for status, text in {**usual, **each.others}.items()
        }
        if each.takes_idempotency_key:
            operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
        if each.permission != OPEN:
            operation["security"] = [{"HTTPBearer": []}]
    for methods in document["paths"].values():
        for operation in methods.values():
            operation["responses"] |= dict.fromkeys(("4XX", "5XX"), _refused(schemas))
    parts = {"schemas": {name: _documented(schema) for name, schema in components.items()}}
    key = {"type": "http", "scheme": "bearer", "description": "An API key of this installation"}
    document["components"] = {**parts, "securitySchemes": {"HTTPBearer": key}}
    return document


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A text of yours: a repetition of the request with it gets the first reply, and has no further effect.",
    "schema": {"type": "string", "minLength": 1, "maxLength": idempotency.MOST_KEY, "pattern": "^[!-~]+$"},
}


def _refused(schemas: Mapping[Any, Any]) -> dict[str, Any]:
    return {"description": "A problem (RFC 9457)", "content": {PROBLEM_JSON: {"schema": schemas[Problem]}}}


def _content(kinds: Sequence[Any], schemas: Mapping[Any, Any]) -> dict[str, Any]:
    if kinds[0] is bytes:
        return {OCTETS: {"schema": {"type": "string", "format": "binary"}}}
    if kinds[0] is type(None):
        return {}
    schema = schemas[kinds[0]] if len(kinds) == 1 else {"anyOf": [schemas[kind] for kind in kinds]}
    return {"application/json": {"schema": schema}}


_ATTRIBUTE = re.compile(r"^([a-z_][a-z_, ]*): (.+?)(?=^[a-z_][a-z_, ]*: |\Z)", re.MULTILINE | re.DOTALL)


def _documented(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a class, with the attributes in its docstring as descriptions of the properties."""
    head, _, attributes = schema.get("description", "").partition("Attributes:\n")
    properties = schema.get("properties", {})
    for names, text in _ATTRIBUTE.findall(inspect.cleandoc(attributes)):
        for name in names.split(", "):
            if name in properties:
                properties[name] = {**properties[name], "description": " ".join(text.split())}
    return {**schema, **({"description": " ".join(head.split())} if head else {})}
