"""One attempt to deliver one message. Bounded in time; follows no redirect, reads no body, ignores proxies of the environment."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from roadworthy.foundation.clock import Clock
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.version import __version__
from roadworthy.webhooks.messages import Message
from roadworthy.webhooks.signing import sign
from roadworthy.webhooks.targets import Network, Target, find_targets, parse_url

TIMEOUT_S = 15.0
"""For the whole attempt, from the name look-up to the status of the answer, in seconds."""
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of an attempt.

    Attributes:
        at_us: start, microseconds since 1970 UTC.
        took_ms: duration in milliseconds.
        status: HTTP status of the answer; None without an answer.
        reason: why the message was not delivered; "" when it was.
        retry_after_s: pause that the receiver asked for in seconds, or None.
    """

    at_us: int
    took_ms: int
    status: int | None
    reason: str
    retry_after_s: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the receiver accepted the message."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Makes any number of attempts at the same time, on any event loop.

    Args:
        networks: private networks that may be called, also by plain http.
        clock: for the time in signatures and in attempts.
        timeout_s: for one attempt, in seconds.
    """

    def __init__(self, networks: Sequence[Network], clock: Clock, timeout_s: float = TIMEOUT_S) -> None:
        self._networks = tuple(networks)
        self._clock = clock
        self._timeout_s = timeout_s
        self._context: ssl.SSLContext | None = None

    async def check(self, url: str) -> None:
        """Check that a webhook may call this URL now.

        Raises:
            InvalidRequest: "webhook-url-invalid", "webhook-host-unknown", "webhook-address-refused".
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await find_targets(parse_url(url), self._networks)
        except TimeoutError as error:
            raise InvalidRequest(
                f"the host name was not resolved within {self._timeout_s:g} s",
                code="webhook-host-unknown",
                hint="check the URL; the control plane's machine resolves the name",
            ) from error

    async def send(self, url: str, secret: str, message: Message) -> Attempt:
        """Make one attempt; any failure is in the result."""
        at_us, begun = self._clock.now_us(), time.monotonic()
        status: int | None = None
        retry_after: float | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                status, retry_after = await self._call(url, secret, message, at_us)
            reason = "" if 200 <= status < 300 else _meaning(status)
        except TimeoutError:
            reason = f"no answer within {self._timeout_s:g} s"
        except InvalidRequest as error:  # the name has no address any longer, or none that may be called
            reason = f"{error.message} ({error.code})"
        except (httpx.HTTPError, OSError) as error:
            reason = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
        return Attempt(at_us, round((time.monotonic() - begun) * 1e3), status, reason, retry_after)

    async def _call(self, url: str, secret: str, message: Message, at_us: int) -> tuple[int, float | None]:
        targets = await find_targets(parse_url(url), self._networks)
        headers = {
            **sign(secret, message.id, at_us // 1_000_000, message.body),
            "Content-Type": "application/json",
            "User-Agent": f"roadworthy/{__version__}",
            "Accept": "*/*",
            "Connection": "close",
        }
        for number, target in enumerate(targets, start=1):
            try:
                return await self._post(target, headers, message.body)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # nothing was sent; the next address may answer
                if number == len(targets):
                    raise
        raise AssertionError("find_targets returns at least one")

    async def _post(self, target: Target, headers: dict[str, str], body: bytes) -> tuple[int, float | None]:
        if self._context is None:  # reading the machine's certificates takes a while
            self._context = await asyncio.to_thread(httpx.create_ssl_context)
        limits = httpx.Timeout(self._timeout_s, connect=_CONNECT_S)
        async with httpx.AsyncClient(verify=self._context, trust_env=False, follow_redirects=False, timeout=limits) as client:
            request = client.build_request("POST", target.url, content=body, headers={**headers, "Host": target.host})
            request.extensions["sni_hostname"] = target.name
            answer = await client.send(request, stream=True)
            await answer.aclose()  # the body is ignored
            return answer.status_code, _seconds(answer.headers.get("retry-after"))


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return f"status {status}: redirects are not followed; change the webhook to the new URL"
    return f"status {status}"


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 9 else None
