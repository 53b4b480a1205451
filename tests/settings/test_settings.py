"""Settings: the sources of values, which source wins, and that all faults are reported at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.documents import Bounds
from roadworthy.foundation.errors import SettingsError
from roadworthy.settings import GROUPS, Settings, load_settings, variable
from tests.declarations import declared


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder of its own."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def read(home: Path, flags: dict[str, object] | None = None, **environment: str) -> Settings:
    """Settings with nothing of this machine in them."""
    return load_settings(flags, environment={"ROADWORTHY_HOME": str(home), **environment}, folder=home / "nowhere")


def test_the_defaults_are_safe(home: Path) -> None:
    """Without any configuration everything listens on loopback, and nothing but the home folder was given."""
    settings = read(home)
    assert {settings.gateway.host, settings.control.host, settings.gateway.metrics_host} == {"127.0.0.1"}
    assert settings.origins == {"general.home": "ROADWORTHY_HOME"}
    assert settings.origin("gateway.port") == "default"


def test_stronger_origins_win(home: Path) -> None:
    """A flag wins over the environment, the environment over the file, the file over the default; each value tells."""
    (home / "roadworthy.toml").write_text('[gateway]\nport = 1\nthreads = 3\nhost = "::1"\n[log]\nlevel = "error"\n')
    settings = read(home, {"gateway.port": 4, "gateway.workers": None}, ROADWORTHY_GATEWAY_PORT="2", ROADWORTHY_LOG_LEVEL="DEBUG")
    assert (settings.gateway.port, settings.gateway.threads, settings.log.level) == (4, 3, "debug")
    assert settings.origin("gateway.port") == "--port"
    assert settings.origin("log.level") == "ROADWORTHY_LOG_LEVEL"
    assert settings.origin("gateway.threads") == str(home / "roadworthy.toml")


def test_the_folder_at_hand_comes_before_home(home: Path, tmp_path: Path) -> None:
    """roadworthy.toml of the present folder is read instead of that in the home folder; ROADWORTHY_CONFIG names another."""
    (home / "roadworthy.toml").write_text("[gateway]\nport = 1\n")
    (tmp_path / "roadworthy.toml").write_text("[gateway]\nport = 2\n")
    (tmp_path / "other.toml").write_text("[gateway]\nport = 3\n")
    environment = {"ROADWORTHY_HOME": str(home)}
    assert load_settings(environment=environment, folder=tmp_path).gateway.port == 2
    named = {**environment, "ROADWORTHY_CONFIG": str(tmp_path / "other.toml")}
    assert load_settings(environment=named, folder=tmp_path).gateway.port == 3


def test_all_faults_are_reported_at_once(home: Path) -> None:
    """Wrong values of every kind and unknown names are listed together, each with where it came from."""
    (home / "roadworthy.toml").write_text('[gateway]\nprot = 1\nallowed_hosts = 3\n[nonsense]\n[log]\nlevel = "loud"\n')
    with pytest.raises(SettingsError) as caught:
        read(home, {"gateway.workers": 0}, ROADWORTHY_CONTROL_PORT="http", ROADWORTHY_CONTROL_URL="localhost:1")
    faults = {fault["setting"]: fault for fault in caught.value.facts["faults"]}  # type: ignore[attr-defined]
    expected = {
        "gateway.prot", "gateway.allowed_hosts", "nonsense", "log.level", "gateway.workers", "control.port", "client.control_url"
    }  # fmt: skip
    assert set(faults) == expected
    assert faults["gateway.prot"]["problem"] == "unknown key; did you mean port?"
    assert faults["control.port"]["origin"] == "ROADWORTHY_CONTROL_PORT"
    assert all(name in caught.value.message for name in expected)


def test_grants_are_checked_and_have_one_form(home: Path) -> None:
    """From a file or a variable; an invalid grant is a fault that names the valid forms."""
    (home / "roadworthy.toml").write_text('[general]\ngrants = ["tcp:5432", "read:/data/", "read:/data, more"]\n')
    settings = read(home)
    assert settings.general.grants == ("read:/data", "read:/data, more", "tcp:5432")
    assert settings.file == home / "roadworthy.toml"
    assert read(home, ROADWORTHY_GRANTS="network,device:nvidia").general.grants == ("device:nvidia", "network")
    with pytest.raises(SettingsError, match=r"general\.grants \(ROADWORTHY_GRANTS\): a grant has the form read:/path"):
        read(home, ROADWORTHY_GRANTS="read:data")


def test_a_file_that_cannot_be_read_is_a_fault(home: Path) -> None:
    """Broken TOML and a missing file that ROADWORTHY_CONFIG names are reported, not skipped."""
    (home / "roadworthy.toml").write_text("[gateway\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        read(home)
    with pytest.raises(SettingsError, match="cannot be read"):
        read(home, ROADWORTHY_CONFIG=str(home / "missing.toml"))


def test_an_empty_variable_of_an_optional_setting_is_not_set(home: Path) -> None:
    """As docker compose and systemd pass it: the file's value or the default holds. A setting that needs a value refuses it."""
    (home / "roadworthy.toml").write_text('[client]\nkey = "rw_file"\n')
    empty = dict.fromkeys(
        ("ROADWORTHY_KEY", "ROADWORTHY_CONTROL_DATABASE_URL", "ROADWORTHY_GATEWAY_WORKERS", "ROADWORTHY_CONFIG"), ""
    )
    found = read(home, **empty)
    assert (found.client.key, found.control.database_url, found.gateway.workers) == ("rw_file", None, None)
    assert found.origin("control.database_url") == "default"
    with pytest.raises(SettingsError, match=r"gateway\.host \(ROADWORTHY_GATEWAY_HOST\): must not be empty"):
        read(home, ROADWORTHY_GATEWAY_HOST="")


def test_unknown_variables_are_shown_and_harmless(home: Path) -> None:
    """An unknown ROADWORTHY_ variable is no fault, since orchestrators set such, and `config show` lists it."""
    assert read(home, ROADWORTHY_SERVICE_HOST="10.0.0.1").unknown == ("ROADWORTHY_SERVICE_HOST",)


def test_a_renamed_setting_is_a_fault_that_names_the_new_one(home: Path) -> None:
    """From a variable too: what someone set must not be ignored silently."""
    told = r"gateway\.deep_check_s \(%s\): is now gateway\.golden_probe_s"
    with pytest.raises(SettingsError, match=told % "ROADWORTHY_GATEWAY_DEEP_CHECK_S"):
        read(home, ROADWORTHY_GATEWAY_DEEP_CHECK_S="10")
    (home / "roadworthy.toml").write_text("[gateway]\ndeep_check_s = 10\n")
    with pytest.raises(SettingsError, match=told % r".*roadworthy\.toml"):
        read(home)
    (home / "roadworthy.toml").write_text("[gateway]\ngolden_probe_s = 10\n")
    assert read(home).gateway.golden_probe_s == 10


def write_context(home: Path) -> None:
    """What `up` leaves."""
    context = {"control_url": "http://127.0.0.1:1", "gateway_url": "http://127.0.0.1:2", "key": "rw_x"}
    (home / "context.json").write_text(json.dumps(context))


def test_the_context_fills_in(home: Path) -> None:
    """Addresses and key that `up` wrote are used when no other source gives them."""
    write_context(home)
    settings = read(home)
    assert (settings.client.control_url, settings.client.gateway_url) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert settings.client.key == "rw_x"
    assert settings.origin("client.key") == "context"


@pytest.mark.parametrize("name", ["control_url", "gateway_url"])
def test_the_context_key_goes_nowhere_else(home: Path, name: str) -> None:
    """With an address from elsewhere (a file of the folder at hand could name any) the context's key is not used."""
    write_context(home)
    (home / "roadworthy.toml").write_text(f'[client]\n{name} = "http://elsewhere.invalid"\n')
    settings = read(home)
    assert settings.client.key is None
    assert read(home, {f"client.{name}": "http://127.0.0.1:1" if name == "control_url" else "http://127.0.0.1:2"}).client.key


def test_a_damaged_context_is_ignored(home: Path) -> None:
    """Settings are loaded whatever context.json holds."""
    (home / "context.json").write_bytes(b"[1, 2")
    assert read(home).client.control_url is None


def test_secrets_are_not_in_the_representation(home: Path) -> None:
    """Printing settings prints no key and no database address."""
    settings = read(home, ROADWORTHY_KEY="rw_secret", ROADWORTHY_CONTROL_DATABASE_URL="postgresql://u:p@h/d")
    assert "rw_secret" not in repr(settings)
    assert "postgresql" not in repr(settings)


@given(st.text(max_size=10) | st.integers().map(str))
def test_any_text_is_taken_or_refused_clearly(text: str) -> None:
    """For any value of a variable, loading gives settings or a SettingsError that names the setting."""
    environment = {"ROADWORTHY_GATEWAY_PORT": text}
    if text.strip().isdecimal() and int(text) <= 65_535:
        assert load_settings(environment=environment, folder=Path("/nonexistent")).gateway.port == int(text)
    else:
        with pytest.raises(SettingsError, match=r"gateway\.port"):
            load_settings(environment=environment, folder=Path("/nonexistent"))


def shown_default(group: str, field: str) -> str:
    """A default as docs/settings.md shows it."""
    value = getattr(GROUPS[group](), field)
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_is_documented(home: Path) -> None:
    """docs/settings.md has a heading for each group and setting, with the setting's variable, default and bounds."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    for group in GROUPS:
        assert f"\n## {group}\n" in page
    for name, _ in read(home).entries():
        group, _, field = name.partition(".")
        assert f"\n### {name}\n" in page
        section = page.partition(f"\n### {name}\n")[2].partition("\n#")[0]
        assert f"`{variable(group, field)}`, default {shown_default(group, field)}" in section, name
        bounds = declared(GROUPS[group], Bounds).get(field)
        assert bounds is None or f", {bounds.low:.15g} to {bounds.high:.17g}." in section, name
    headings = [line for line in page.splitlines() if line.startswith("### ")]
    assert headings == [f"### {name}" for name, _ in read(home).entries()]
