"""What type checkers know of the public names. `make types` checks it; nothing here is executed.

A change of a type that callers see fails here first: change this file on purpose, and say so in the changelog.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, assert_type

import roadworthy as rw
from roadworthy.client import FeedbackReply, KnownLater
from roadworthy.client.calls import AsyncItems, Items
from roadworthy.client.rollouts import AsyncRollouts, Rollouts
from roadworthy.client.webhooks import AsyncWebhooks, Webhooks
from roadworthy.contract.api.endpoints import Endpoint
from roadworthy.contract.api.registry import Version
from roadworthy.contract.api.rollouts import CommandedRollout, NoRollout, Rollout, StartedRollout
from roadworthy.contract.api.system import AuditEntry
from roadworthy.contract.api.webhooks import Webhook
from roadworthy.embedded.asgi import ASGIApp
from roadworthy.embedded.endpoint import EmbeddedStatus
from roadworthy.embedded.wsgi import WSGIApp
from roadworthy.schema.signature import Signature


def packing(model: Any, rows: Any) -> None:
    """`pack` gives a package; its options have types of their own."""
    package = rw.pack(model, name="m", inputs=rows, out=Path("dist"), compile=False, privacy={"a": "drop"}, examples=8)
    assert_type(package, rw.Package)
    assert_type(package.path, Path)
    assert_type(package.digest, str)
    assert_type(package.name, str)
    assert_type(package.carries_code, bool)
    assert_type(package.signature, Signature)
    rw.pack(model, name="m", inputs=rows, compiler=True)  # type: ignore[call-arg]  # there is no such option
    rw.pack(model, name="m", inputs=rows, examples="8")  # type: ignore[arg-type]  # a number


def loading() -> None:
    """`load` gives a model, which is a context manager of itself."""
    with rw.load("flights:1", allow_code=["sha256:0"], threads=2) as model:
        assert_type(model, rw.Model)
        assert_type(model.name, str)
        assert_type(model.digest, str)
        assert_type(model.runtime, str)
        assert_type(model.signature, Signature)
        assert_type(model.predict([{"a": 1}]), Any)
    rw.load(3)  # type: ignore[arg-type]  # a name or a path


def embedding(rows: Any) -> None:
    """An endpoint in this process, and its mounts."""
    with rw.serve_in_process("credit", package=Path("credit.rw"), allow_code="sha256:0", policy={"max_rows": 1}) as credit:
        assert_type(credit, rw.EmbeddedEndpoint)
        assert_type(credit.name, str)
        assert_type(credit.closed, bool)
        assert_type(credit.predict(rows, timeout_s=1.0), rw.Prediction)
        assert_type(credit.stream(rows), Iterator[list[Any]])
        assert_type(credit.stream_async(rows), AsyncIterator[list[Any]])
        assert_type(credit.status(), EmbeddedStatus)
        assert_type(credit.status().off, Mapping[str, str])
        assert_type(rw.asgi_app(credit), ASGIApp)
        assert_type(rw.wsgi_app(credit, credit), WSGIApp)
        credit.close(grace_s=1.0)
    rw.serve_in_process("credit", "credit.rw")  # type: ignore[call-arg]  # by keyword only
    rw.asgi_app("credit")  # type: ignore[arg-type]  # an endpoint


async def embedding_awaited(credit: rw.EmbeddedEndpoint, rows: Any) -> None:
    """The same on an event loop."""
    assert_type(await credit.predict_async(rows), rw.Prediction)
    async for part in credit.stream_async(rows):
        assert_type(part, list[Any])


def asking(rows: Any) -> None:
    """A client asks endpoints."""
    with rw.Client("http://127.0.0.1:8080", key="k", timeout_s=1.0) as client:
        assert_type(client, rw.Client)
        answer = client.predict("flights", rows, headers={"X-User": "u"})
        assert_type(answer, rw.Prediction)
        assert_type(answer.predictions, list[Any])
        assert_type(answer.id, str)
        assert_type(answer.version, str)
        assert_type(answer.digest, str)
        assert_type(answer.runtime, str)
        assert_type(answer.fallback, str)
        assert_type(answer.cache_status, str)
        assert_type(len(answer), int)
        with client.stream("words", rows, first_part_s=1.0, between_s=1.0) as parts:
            assert_type(parts, Items[rw.Prediction])
            assert_type(next(parts), rw.Prediction)
    rw.Client("http://127.0.0.1:8080", "k")  # type: ignore[call-arg]  # the key is given by name


def managing(client: rw.Client) -> None:
    """A client changes endpoints, and tells what became known."""
    assert_type(client.push("m.rw", allow_code="sha256:0", grants=["network"]), Version)
    changed = client.deploy("flights:2", "flights", policy={"timeout_ms": 500})
    assert_type(changed, Endpoint)
    assert_type(client.wait(changed, timeout_s=5.0), Endpoint)
    assert_type(client.rollback("flights", idempotency_key="k"), Endpoint)
    assert_type(client.endpoints(), list[Endpoint])
    assert_type(client.undeploy("flights"), None)
    assert_type(client.rollouts, Rollouts)
    assert_type(client.rollouts.start("flights", "flights:2", {}, supersede=True), StartedRollout)
    assert_type(client.rollouts.abort("flights"), CommandedRollout | NoRollout)
    assert_type(client.rollouts.watch("flights"), Items[Rollout])
    assert_type(client.webhooks, Webhooks)
    assert_type(client.webhooks.list(), list[Webhook])
    assert_type(client.feedback("flights", KnownLater(prediction_id="p", correct=True)), FeedbackReply)
    assert_type(client.create_key("predictor", ["flights"]).key, str)
    assert_type(client.audit(20, "flights"), list[AuditEntry])
    assert_type(client.status().gateways[0].workers[0].revision, int)
    client.deploy("flights:2", "flights", generation=3)  # type: ignore[call-arg]  # there is no such option
    client.create_key(7)  # type: ignore[arg-type]  # a role is a text


async def awaiting(client: rw.AsyncClient) -> None:
    """The same calls, awaited."""
    async with rw.AsyncClient("http://127.0.0.1:8080", key="k", timeout_s=1.0) as made:
        assert_type(made, rw.AsyncClient)
    assert_type((await client.predict("flights", [[1]], timeout_s=1.0)).id, str)
    async with client.stream("words", [[1]]) as parts:
        assert_type(parts, AsyncItems[rw.Prediction])
        assert_type(await anext(parts), rw.Prediction)
    assert_type(await client.push("m.rw", allow_code="sha256:0"), Version)
    changed = await client.deploy("flights:2", "flights", policy={"timeout_ms": 500})
    assert_type(await client.wait(changed, timeout_s=5.0), Endpoint)
    assert_type(await client.endpoints(), list[Endpoint])
    assert_type(client.rollouts, AsyncRollouts)
    assert_type(client.rollouts.watch("flights"), AsyncItems[Rollout])
    assert_type(await client.rollouts.start("flights", "flights:2", {}, supersede=True), StartedRollout)
    assert_type(client.webhooks, AsyncWebhooks)
    assert_type(await client.webhooks.list(), list[Webhook])
    assert_type((await client.create_key("predictor", ["flights"])).key, str)
    await client.deploy("flights:2", "flights", generation=3)  # type: ignore[call-arg]  # there is no such option


def failing(error: rw.RoadworthyError) -> None:
    """Every error has a code, a hint and facts."""
    assert_type(error.code, str)
    assert_type(error.hint, str | None)
    assert_type(error.facts, dict[str, object])
    assert_type(rw.__version__, str)


def one_tree(
    package: rw.PackageInvalid | rw.PackageRefused | rw.ProofFailed,
    request: rw.InvalidInput | rw.InvalidRequest | rw.NotFound | rw.Conflict | rw.Unavailable,
    caller: rw.Unauthenticated | rw.Forbidden,
    rest: rw.ClientError | rw.ModelFault | rw.PackError | rw.SettingsError,
) -> None:
    """Errors of packages are `PackageError`; every error is a `RoadworthyError`."""
    of_packages: rw.PackageError = package
    every: list[rw.RoadworthyError] = [of_packages, request, caller, rest]
    assert_type(every[0].code, str)
