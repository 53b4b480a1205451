"""The addresses that webhooks may call. The URL comes from outside, but the request starts inside, so an address is refused
unless it is public or in a network that the operator named (server-side request forgery).

The name is resolved once for each attempt, and the connection goes to the address that was checked, so a name that changes its
address in between gains nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from roadworthy.foundation.errors import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_MOST_URL = 2_000
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local; most clouds serve a machine's credentials there
            "fe80::/10",
            "fd00:ec2::254/128",  # AWS's over IPv6
            "100.100.100.200/32",  # Alibaba's
            "168.63.129.16/32",  # Azure's, a public address
            "192.0.0.192/32",  # Oracle's
            "0.0.0.0/8",  # this machine, on most systems
            "::/128",
            "224.0.0.0/4",
            "ff00::/8",
            "255.255.255.255/32",
        ),
    )
)
"""Refused even in a network that the operator named."""
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The routed part of IPv6. Everything else is site-local, reserved or an encoding of an IPv4 address."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "2001::/23",  # IETF protocols, including Teredo
            "2001:db8::/32",  # documentation
            "3fff::/20",
            "2002::/16",  # 6to4: a relay unpacks it
            "192.88.99.0/24",  # 6to4 relays
        ),
    )
)
"""Not public, although the standard library of some Python versions says so."""
_IPV4_TAILS = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Prefixes whose last 32 bits are an IPv4 address: the compatible, the translated and the NAT64 form."""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True, slots=True)
class Target:
    """An address that may be called, and how.

    Attributes:
        url: with the address instead of the name.
        host: value of the Host header, with the port if it is not the default.
        name: that TLS checks the certificate for.
    """

    url: httpx.URL
    host: str
    name: str


def parse_url(text: str) -> httpx.URL:
    """Parse a webhook's URL as the caller gave it.

    Raises:
        InvalidRequest: "webhook-url-invalid".
    """
    fault = _fault(text)
    if fault is not None:
        raise InvalidRequest(
            f"not a valid webhook URL: {fault}",
            code="webhook-url-invalid",
            hint="expected https://host[:port]/path",
        )
    return httpx.URL(text)


def _fault(text: str) -> str | None:
    if len(text) > _MOST_URL:
        return f"it has {len(text):,} characters; {_MOST_URL:,} are allowed"
    if not text.isprintable() or " " in text or "\\" in text:
        return "it has spaces, control characters or backslashes"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return "it cannot be parsed"
    if url.scheme not in ("https", "http"):
        return "it does not begin with https://"
    faults = {
        "it has no host or no valid port": not url.host or (url.port is not None and not 0 < url.port < 1 << 16),
        "it contains a user name or password, which would be shown": bool(url.userinfo),
        "it has a fragment, which is never sent": bool(url.fragment),
    }
    return next((text for text, found in faults.items() if found), None)


async def find_targets(url: httpx.URL, networks: Sequence[Network]) -> list[Target]:
    """The addresses of the URL's host that may be called, in the resolver's order.

    Raises:
        InvalidRequest: "webhook-host-unknown", "webhook-address-refused".
    """
    addresses = await _resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
    allowed = [each for each in addresses if is_allowed(each, networks, plain=url.scheme == "http")]
    if not allowed:
        plain = url.scheme == "http"
        why = "plain http is allowed only in named networks" if plain else "it is neither public nor in a named network"
        raise InvalidRequest(
            f"{url.host} has no address that a webhook may call: {why}",
            code="webhook-address-refused",
            hint="use a public https address, or name the network in the setting control.webhook_networks",
            facts={"host": url.host},
        )
    host = url.netloc.decode("ascii")
    return [Target(url.copy_with(host=str(each)), host, url.host) for each in allowed]


def is_allowed(address: Address, networks: Sequence[Network], *, plain: bool) -> bool:
    """Whether a webhook may call the address; `plain` for http, which is allowed only in networks that the operator named."""
    carried = _carried(address)
    if any(_within(each, _NEVER) for each in carried):
        return False
    if all(_within(each, networks) for each in carried) or _within(address, networks):
        return True
    return not plain and all(_is_public(each) for each in carried)


def _is_public(address: Address) -> bool:
    if _within(address, _SPECIAL) or address.is_multicast or not address.is_global:
        return False
    return address.version == 4 or address in _UNICAST or address in _NAT64


def _carried(address: Address) -> list[Address]:
    """The address and the IPv4 addresses encoded in it: a gateway on the way would unpack them."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]  # systems call that IPv4 address directly
    if address.is_loopback:
        return [address]
    number = int(address)
    found = [each for each in (address.sixtofour, *(address.teredo or ())) if each is not None]
    if _within(address, _IPV4_TAILS) or number >> 32 & 0xFFFF_FFFF in _ISATAP:
        found.append(ipaddress.IPv4Address(number & 0xFFFF_FFFF))
    if address in _NAT64_LOCAL:
        found += _nat64_readings(number)
    return [address, *found]


def _nat64_readings(number: int) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that a local NAT64 prefix may carry (RFC 6052): the address does not say how long the prefix is."""
    found = [number & 0xFFFF_FFFF]
    without_u = (number >> 64) << 56 | number & (1 << 56) - 1  # bits 64 to 71 do not belong to it
    for length in (48, 56, 64):
        rest = 120 - length - 32
        if without_u & (1 << rest) - 1 == 0:  # otherwise the prefix is longer
            found.append(without_u >> rest & 0xFFFF_FFFF)
    return [ipaddress.IPv4Address(each) for each in found if each >> 24]  # 0.x.x.x comes from the zeros of another reading


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


async def _resolve(host: str, port: int) -> list[Address]:
    """Resolve in a separate thread, so that a slow name delays neither other webhooks nor the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address]) -> None:
        if not answer.done():
            answer.set_result(found)

    def look() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            answers = []
        found = [ipaddress.ip_address(entry[4][0]) for entry in answers]
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, list(dict.fromkeys(found)))

    threading.Thread(target=look, name="webhook-resolver", daemon=True).start()
    found = await answer
    if not found:
        raise InvalidRequest(
            f"the host name {host} cannot be resolved",
            code="webhook-host-unknown",
            hint="check the URL; the control plane's machine resolves the name",
            facts={"host": host},
        )
    return found
