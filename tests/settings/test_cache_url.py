"""The address of the shared cache: valid and invalid ones, and that no fault repeats a password."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadworthy.foundation.errors import SettingsError
from roadworthy.settings import Settings, load_settings

SECRET = "hunter2"


def read(home: Path, url: str) -> Settings:
    """Settings with this address."""
    environment = {"ROADWORTHY_HOME": str(home), "ROADWORTHY_GATEWAY_CACHE_URL": url}
    return load_settings(environment=environment, folder=home)


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache:6379/0",
        "redis://cache",
        "redis://:p%2Fw@[::1]:6379",
        "rediss://gateway:hunter2@redis.internal/3?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/c.pem",
        "unix:///run/redis.sock",
        "unix://gateway:hunter2@/run/redis.sock?db=2",
    ],
)
def test_addresses_of_redis_are_accepted(tmp_path: Path, url: str) -> None:
    """Unchanged."""
    settings = read(tmp_path, url)
    assert settings.gateway.cache_url == url
    assert settings.gateway.cache_wait_ms == 20
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "http://:hunter2@cache:6379",
        "redis://",
        "redis:///0",
        "redis://:hunter2@cache:port",
        "redis://:pass/hunter2@cache:6379",
        "redis://:hunter2@cache:0",
        "redis://:hunter2@cache/name",
        "redis://:hunter2@[cache",
        "redis://:hunter2@cache?socket_timeout=9",
        "redis://:hunter2@cache?decode_responses=true",
        "redis://:hunter2@cache?hunter2",
        "unix://",
        "unix://hunter2@/",
    ],
)
def test_others_are_refused_without_being_repeated(tmp_path: Path, url: str) -> None:
    """The fault says which forms are valid, and repeats no part of the value, which may hold a password."""
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, url)
    (fault,) = caught.value.facts["faults"]  # type: ignore[misc]
    assert fault["setting"] == "gateway.cache_url"
    assert "rediss://" in fault["problem"]
    assert SECRET not in f"{caught.value!r}{caught.value.message}{caught.value.facts}"
