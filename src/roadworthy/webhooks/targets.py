"""Where webhooks may go. A URL comes from outside, and the request from inside: so addresses are refused unless they are public,
or in a network that the operator named (server-side request forgery).

The name is resolved once for each attempt and what was judged is what is connected to: a name that changes its address in between
gains nothing.
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
            "169.254.0.0/16",  # link-local, and where most clouds tell a machine its credentials
            "fe80::/10",
            "fd00:ec2::254/128",  # the same of AWS over IPv6
            "100.100.100.200/32",  # of Alibaba
            "168.63.129.16/32",  # of Azure, a public address
            "192.0.0.192/32",  # of Oracle
            "0.0.0.0/8",  # this machine, to most systems
            "::/128",
            "224.0.0.0/4",
            "ff00::/8",
            "255.255.255.255/32",
        ),
    )
)
"""Refused even in a network that the operator named."""
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""What the Internet routes of IPv6. Everything else is site-local, reserved or a way to write an IPv4 address."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "2001::/23",  # protocols of the IETF, Teredo among them
            "2001:db8::/32",  # documentation
            "3fff::/20",
            "2002::/16",  # 6to4: a relay unpacks it
            "192.88.99.0/24",  # such relays
        ),
    )
)
"""Not public, though the standard library of some Python versions says so."""
_IPV4_TAILS = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
"""Prefixes whose last 32 bits are an IPv4 address: the compatible, the translated and the NAT64 form."""
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


@dataclass(frozen=True, slots=True)
class Target:
    """An address that may be called, and how.

    Attributes:
        url: with the address in place of the name.
        host: what the Host header says, with the port where it is not the usual one.
        name: what TLS asks the certificate for.
    """

    url: httpx.URL
    host: str
    name: str


def parse_url(text: str) -> httpx.URL:
    """An address for a webhook, as it was given.

    Raises:
        InvalidRequest: "webhook-url-invalid".
    """
    fault = _fault(text)
    if fault is not None:
        raise InvalidRequest(
            f"that URL cannot be a webhook's: {fault}",
            code="webhook-url-invalid",
            hint="give it as https://host[:port]/path",
        )
    return httpx.URL(text)


def _fault(text: str) -> str | None:
    if len(text) > _MOST_URL:
        return f"it has over {_MOST_URL} characters"
    if not text.isprintable() or " " in text or "\\" in text:
        return "it has spaces, control characters or backslashes"
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        return "it is none"
    if url.scheme not in ("https", "http"):
        return "it does not begin with https://"
    faults = {
        "it names no host, or no port": not url.host or (url.port is not None and not 0 < url.port < 1 << 16),
        "it has a user name or a password in it, which would be shown": bool(url.userinfo),
        "it has a fragment, which is never sent": bool(url.fragment),
    }
    return next((text for text, found in faults.items() if found), None)


async def find_targets(url: httpx.URL, networks: Sequence[Network]) -> list[Target]:
    """The addresses behind the URL's host that may be called, in the resolver's order.

    Raises:
        InvalidRequest: "webhook-host-unknown", "webhook-address-refused".
    """
    addresses = await _resolve(url.host, url.port or (443 if url.scheme == "https" else 80))
    allowed = [each for each in addresses if is_allowed(each, networks, plain=url.scheme == "http")]
    if not allowed:
        plain = url.scheme == "http"
        why = "plain http is for named networks only" if plain else "it is neither public nor in a named network"
        raise InvalidRequest(
            f"{url.host} has no address that a webhook may call: {why}",
            code="webhook-address-refused",
            hint="use a public https address, or name the network in the setting control.webhook_networks",
            facts={"host": url.host},
        )
    host = url.netloc.decode("ascii")
    return [Target(url.copy_with(host=str(each)), host, url.host) for each in allowed]


def is_allowed(address: Address, networks: Sequence[Network], *, plain: bool) -> bool:
    """Whether a webhook may call it; `plain` for http, which only networks that the operator named may get."""
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
    """The address and those that IPv6 carries in it: a gateway on the way would unpack them."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]  # systems call that IPv4 address themselves
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
    """The IPv4 addresses that a local NAT64 prefix may carry (RFC 6052): how long the prefix is stands nowhere in the address."""
    found = [number & 0xFFFF_FFFF]
    without_u = (number >> 64) << 56 | number & (1 << 56) - 1  # bits 64 to 71 are no part of it
    for length in (48, 56, 64):
        rest = 120 - length - 32
        if without_u & (1 << rest) - 1 == 0:  # else the prefix is a longer one
            found.append(without_u >> rest & 0xFFFF_FFFF)
    return [
        ipaddress.IPv4Address(each) for each in found if each >> 24
    ]  # 0.x.x.x is no reading but the zeros of another one


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


async def _resolve(host: str, port: int) -> list[Address]:
    """In a thread of its own: one name that is looked up for long holds up nobody else, nor the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address]) -> None:
        if not answer.done():
            answer.set_result(found)

    def look() -> None:
        try:
            told = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            told = []
        found = [ipaddress.ip_address(entry[4][0]) for entry in told]
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, list(dict.fromkeys(found)))

    threading.Thread(target=look, name="webhook-resolver", daemon=True).start()
    found = await answer
    if not found:
        raise InvalidRequest(
            f"the name {host} is not known here",
            code="webhook-host-unknown",
            hint="check the URL; it is looked up on the machine of the control plane",
            facts={"host": host},
        )
    return found
