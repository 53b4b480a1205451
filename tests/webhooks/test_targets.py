"""Allowed URLs and addresses of webhooks: any address that is not public is refused unless it is in a named network."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address, ip_network

import httpx
import pytest

from roadworthy.foundation.errors import InvalidRequest
from roadworthy.webhooks.targets import find_targets, is_allowed, parse_url

LOOPBACK = ip_network("127.0.0.0/8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/a",
        "file:///etc/passwd",
        "https://",
        "https://user:hunter2@hooks.example/",
        "https://user@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example:0/",
        "https://hooks.example:99999/",
        "https://hooks.example/a b",
        "https://hooks.example/\nHost: other",
        "https://hooks.example\\@other.example/",
        "https://hooks.example/" + "a" * 2_000,
    ],
)
def test_what_is_no_url_of_a_webhook_is_refused(text: str) -> None:
    """With one code, and without the URL in the message: it may contain a secret."""
    with pytest.raises(InvalidRequest) as caught:
        parse_url(text)
    assert caught.value.code == "webhook-url-invalid"
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("text", ["https://hooks.example/a?b=c", "https://[2606:4700::1]:8443/", "HTTPS://Bücher.example/"])
def test_what_is_one_is_taken(text: str) -> None:
    """With a port, an IPv6 address, a name beyond ASCII."""
    assert parse_url(text).scheme == "https"


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111"])
def test_public_addresses_are_allowed_by_https_only(address: str) -> None:
    """Plain http would expose the events on the network."""
    assert is_allowed(ip_address(address), (), plain=False)
    assert not is_allowed(ip_address(address), (), plain=True)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "fd12::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "198.18.0.1",
        "240.0.0.1",
        "192.88.99.1",
        "::127.0.0.1",
        "::10.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:0:8.8.8.8",
        "64:ff9b:1::7f00:1",
        "64:ff9b:1::808:808",
        "64:ff9b:1:7f00:0:100::",
        "2002:c0a8:101::1",
        "2002:808:808::1",
        "2001:0:808:808::f7f7:f7f7",
        "2606:4700::5efe:127.0.0.1",
        "2606:4700::200:5efe:10.0.0.1",
        "fec0::1",
        "feff::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
    ],
)
def test_what_is_not_public_is_refused_until_it_is_named(address: str) -> None:
    """Even if an IPv6 address contains it; the network's own name allows it, by http too."""
    found = ip_address(address)
    assert not is_allowed(found, (), plain=False)
    assert is_allowed(found, (ip_network(found),), plain=True)


@pytest.mark.parametrize("address", ["64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_a_public_address_that_ipv6_carries_is_allowed(address: str) -> None:
    """Networks without IPv4 reach it through their NAT64."""
    assert is_allowed(ip_address(address), (), plain=False)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "0.0.0.0",  # noqa: S104
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "2001:db8::5efe:169.254.169.254",
    ],
)
def test_where_clouds_tell_credentials_is_never_allowed(address: str) -> None:
    """Not even if every address was named."""
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    assert not is_allowed(ip_address(address), everywhere, plain=False)
    assert not is_allowed(ip_address(address), everywhere, plain=True)


def codes(url: str, *networks: str) -> str:
    """The code with which a URL's addresses are refused."""
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(find_targets(httpx.URL(url), [ip_network(text) for text in networks]))
    return caught.value.code


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:7f00:1]"])
def test_loopback_is_refused_however_it_is_written(host: str) -> None:
    """The system's resolver knows more ways to write an address than URL parsers do; its answer is checked."""
    assert codes(f"https://{host}/") == "webhook-address-refused"


def test_a_name_that_nobody_knows_is_told_as_such() -> None:
    """.invalid is never in the DNS."""
    assert codes("https://hooks.invalid/") == "webhook-host-unknown"


def test_the_address_that_was_judged_is_the_one_that_is_called() -> None:
    """The URL has the address; the Host header and the certificate check have the name."""
    (target, *_) = asyncio.run(find_targets(httpx.URL("http://localhost:81/a?b=c"), [LOOPBACK]))
    assert str(target.url) == "http://127.0.0.1:81/a?b=c"
    assert (target.host, target.name) == ("localhost:81", "localhost")
