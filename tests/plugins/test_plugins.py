"""Which entry points a process loads, and what is said of the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from roadworthy.codecs.formats import Formats
from roadworthy.codecs.protocol import bind_protocols, protocols
from roadworthy.contract.policy import Policy
from roadworthy.contract.telemetry import Telemetry, WorkerReport, decode_telemetry, encode_telemetry
from roadworthy.foundation import plugins
from roadworthy.foundation.errors import RoadworthyError, SettingsError
from roadworthy.foundation.plugins import FRAMEWORKS, OWN, Plugin
from roadworthy.frameworks.discovery import examine_files, frameworks
from roadworthy.frameworks.framework import CODE, ModelFolder, Nature
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from roadworthy.settings import load_settings
from roadworthy.signals.discovery import signal_named
from tests.plugins.installed import write_distribution

GOOD = """
class Good:
    name = "good"
    interface = 1
    suffixes = (".good",)
    recognises = answer = categories = save = load = staticmethod(lambda *_: False)

FRAMEWORK = Good()
"""
ENTRY = "[roadworthy.frameworks]\ngood = {module}:FRAMEWORK\n"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path for planted distributions; nothing is allowed before and after."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    plugins.allow(())


def plant(packages: Path, name: str, module: str, entries: str = ENTRY) -> None:
    """A distribution whose module defines a framework."""
    write_distribution(packages, name, entries.format(module=name.replace("-", "_")), module)


def states() -> dict[tuple[str, str], Plugin]:
    """What `plugin list` shows of other distributions, by distribution and name."""
    return {(each.distribution, each.name): each for each in plugins.survey() if each.distribution != OWN}


def test_only_named_distributions_are_loaded(packages: Path) -> None:
    """One that is not named is shown, and its module is not imported."""
    plant(packages, "good-one", GOOD)
    plant(packages, "other-one", "raise SystemExit('imported')")
    plugins.allow(["Good_One"])
    assert "good" in frameworks()
    assert states()["good-one", "good"].state == plugins.LOADED
    assert states()["other-one", "good"].state == plugins.NOT_NAMED
    plugins.allow(())
    assert "good" not in frameworks()


@pytest.mark.parametrize(
    ("module", "state", "reason"),
    [
        ("import no_such_module_anywhere", plugins.FAILED, "no_such_module_anywhere"),
        ("raise SystemExit(3)", plugins.FAILED, "SystemExit"),
        (GOOD.replace("interface = 1", "interface = 2"), plugins.WRONG_INTERFACE, "interface 2"),
        (GOOD.replace("interface = 1", ""), plugins.WRONG_INTERFACE, "states no interface"),
        (GOOD.replace("= load =", "="), plugins.WRONG_INTERFACE, "it has no load"),
        (GOOD.replace('"good"', '"bad"'), plugins.WRONG_INTERFACE, "'bad'"),
        (GOOD.replace('".good"', '".onnx"'), plugins.NAME_TAKEN, "onnx of roadworthy"),
        (GOOD.replace('(".good",)', "None"), plugins.WRONG_INTERFACE, "suffixes"),
        (GOOD.replace('(".good",)', '([".good"],)'), plugins.WRONG_INTERFACE, "suffixes"),
        (
            GOOD.replace("interface = 1", "interface = property(lambda _self: 1 / 0)"),
            plugins.WRONG_INTERFACE,
            "ZeroDivisionError",
        ),
    ],
)
def test_what_cannot_be_used_is_left_out(
    packages: Path, module: str, state: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With its reason in the list and in the log; everything else goes on."""
    name = f"planted-{abs(hash(module))}"
    plant(packages, name, module)
    plugins.allow([name])
    assert set(frameworks()) == {"onnx", "python", "scikit-learn"}
    found = states()[name, "good"]
    assert (found.state, reason in found.reason) == (state, True), found.reason
    assert name in caplog.text
    assert found.reason in caplog.text


SIGNAL = """
from roadworthy.signals import signal

class Own(signal.BinSignal):
    name = "own"
    interface = 1
    event = "an event"
    bins = ("low", "high")

SIGNAL = Own()
"""


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("", "", ""),
        (
            "(signal.BinSignal):",
            ":\n    kind, compares, allowed = 'criterion', True, lambda _, ratio, margin: 0.05",
            "it derives from no class of roadworthy.signals.signal",
        ),
        ("interface", "kind = 'criterion'\n    interface", "its kind must be observer, not 'criterion'"),
        (
            "BinSignal",
            "OutcomeSignal):\n    kind = 'observer'\n\nclass Own(Own",
            "its kind must be criterion, not 'observer'",
        ),
        (
            "BinSignal",
            "Signal):\n    kind = 'other'\n\nclass Own(Own",
            "its kind must be criterion or observer, not 'other'",
        ),
        (
            "BinSignal",
            "PairSignal):\n    limit = 1.5\n\nclass Own(Own",
            "the rate that it allows must be between 0 and 1",
        ),
        (', "high"', ",", "its bins must be a tuple of 2 to 31 texts, not ('low',)"),
        ("bins =", "others =", "its bins must be a tuple of 2 to 31 texts, not None"),
    ],
)
def test_a_signal_fits_its_class(packages: Path, before: str, after: str, reason: str) -> None:
    """Otherwise it is not loaded, and the list says why: a rollout by it would wait forever."""
    module = SIGNAL.replace(before, after, 1)
    name = f"signal-{abs(hash(module))}"
    plant(packages, name, module, "[roadworthy.signals]\nown = {module}:SIGNAL\n")
    plugins.allow([name])
    found = states()[name, "own"]
    assert found.reason.removeprefix("ValueError: ") == reason
    assert found.state == (plugins.WRONG_INTERFACE if reason else plugins.LOADED)
    assert (signal_named("own") is None) == bool(reason)


CODEC = """
class Form:
    name, media_type, headers = "own", {form}, []

class Own:
    name = "own"
    interface = 2
    media_types = {media}
    form = Form
    limits = {{}}
    streams = takes_views = False
    openapi = check_headers = decode = encode = staticmethod(lambda *_: None)

    def __init__(self, *_arguments, **_options):
        raise OSError("no such library")
"""


@pytest.mark.parametrize(
    ("media", "form", "state"),
    [
        ('(b"application/x-own",)', 'b"application/x-own"', plugins.LOADED),
        ('(b"application/json; charset=utf-8",)', 'b"application/x-own"', plugins.WRONG_INTERFACE),
        ('("application/x-own",)', 'b"application/x-own"', plugins.WRONG_INTERFACE),
        ('b"application/x-own"', 'b"application/x-own"', plugins.WRONG_INTERFACE),
        ('(b"application/json",)', 'b"application/x-own"', plugins.NAME_TAKEN),
        ('(b"application/x-own",)', 'b"text/csv"', plugins.NAME_TAKEN),
    ],
)
def test_a_codec_takes_nothing_from_another_one(packages: Path, media: str, form: str, state: str) -> None:
    """Neither a media type of requests, nor one of answers. A codec that fails to bind is left out, and the others serve."""
    name = f"codec-{abs(hash((media, form)))}"
    entry = f"[roadworthy.codecs]\nown = {name.replace('-', '_')}:Own\n"
    write_distribution(packages, name, entry, CODEC.format(media=media, form=form))
    plugins.allow([name])
    assert states()[name, "own"].state == state
    field = Field("x", DType.FLOAT64)
    formats = Formats(Signature((field,), (field,)), Policy())
    assert formats.choose({b"content-type": b"application/json"}).name == "json"
    assert formats.choose({b"content-type": b"text/csv"}).name == "csv"


PROTOCOL = """
from roadworthy.codecs.formats import PredictProtocol

class Own(PredictProtocol):
    name = "own"

    def paths(self, endpoint, version, *, only):
        return ("/v1/models/" + endpoint + ":predict", "/own/" + endpoint)

class Broken(Own):
    name = "broken"

    def bind(self, *_arguments, **_options):
        raise OSError("no such library")

OWN, BROKEN = Own(), Broken()
"""


def test_a_protocol_that_cannot_be_bound_is_left_out(packages: Path) -> None:
    """The endpoint is served in all others; ours come first, so that no plug-in takes a path of theirs."""
    entry = "[roadworthy.protocols]\nown = own_protocol:OWN\nbroken = own_protocol:BROKEN\n"
    write_distribution(packages, "own-protocol", entry, PROTOCOL)
    plugins.allow(["own-protocol"])
    assert list(protocols()) == ["predict", "open-inference", "mlflow", "broken", "own"]
    field = Field("x", DType.FLOAT64)
    assert list(bind_protocols("e", Signature((field,), (field,)), Policy())) == ["predict", "open-inference", "mlflow", "own"]


def test_ours_come_first_then_the_order_of_the_setting(packages: Path) -> None:
    """A name that is taken stays with the one that has it."""
    for name in ("first-one", "second-one"):
        plant(packages, name, GOOD)
    plant(packages, "greedy", GOOD.replace('"good"', '"onnx"'), "[roadworthy.frameworks]\nonnx = {module}:FRAMEWORK\n")
    plugins.allow(["second-one", "greedy", "first-one"])
    found = {name: each.state for (name, _), each in states().items()}
    assert found == {"second-one": plugins.LOADED, "greedy": plugins.NAME_TAKEN, "first-one": plugins.NAME_TAKEN}
    assert type(frameworks()["onnx"]).__name__ == "Onnx"


def test_kinds_and_distributions_that_are_unknown_are_shown(packages: Path) -> None:
    """A group of ours that this release does not have, and a name in the setting that is not installed."""
    plant(packages, "early", GOOD, "[roadworthy.oracles]\ngood = {module}:FRAMEWORK\n")
    plugins.allow(["early", "absent"])
    assert states()["early", "good"].state == plugins.UNKNOWN_KIND
    assert states()["absent", ""].state == plugins.NOT_INSTALLED
    assert plugins.missing_distributions(["early", "absent"]) == ["absent"]


def test_an_installation_without_entry_points_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the sources are on PYTHONPATH and were never installed."""
    plugins.plugins.cache_clear()
    plugins._read.cache_clear()
    monkeypatch.setattr(plugins, "_distribution", lambda _name: None)
    with pytest.raises(RoadworthyError, match="incomplete") as caught:
        plugins.plugins(FRAMEWORKS)
    assert caught.value.code == "installation-incomplete"
    plugins._read.cache_clear()


def test_a_framework_that_declares_nothing_is_code(tmp_path: Path) -> None:
    """Neither a missing `examine` nor a nonsensical answer makes data of files."""
    (tmp_path / "model").write_bytes(b"data")

    class Silent:
        pass

    class Odd:
        def examine(self, files: Any, options: Any) -> Any:
            return {"carries_code": False}

    class Plain:
        def examine(self, files: Any, options: Any) -> Nature:
            return Nature(carries_code=False, trust="data")

    natures = [examine_files(kind(), ModelFolder(tmp_path), {}) for kind in (Silent, Odd, Plain)]  # type: ignore[arg-type]
    assert natures == [CODE, CODE, Nature(carries_code=False, trust="data")]


def test_the_list_travels_in_start_documents() -> None:
    """Each process hands on what it was allowed; without plug-ins the documents are as before."""
    assert plugins.start_member() == {}
    plugins.allow(["b", "a", "B", OWN])
    try:
        assert json.loads(json.dumps(plugins.start_member())) == {"plugins": ["b", "a"]}
    finally:
        plugins.allow(())


def test_the_setting_holds_names_of_distributions(tmp_path: Path) -> None:
    """Normalised, each once; anything else is refused."""
    environment = {"ROADWORTHY_HOME": str(tmp_path), "ROADWORTHY_PLUGINS": "My_Plugin, other,my.plugin"}
    assert load_settings(environment=environment, folder=tmp_path).general.plugins == ("my-plugin", "other")
    with pytest.raises(SettingsError, match=r"general\.plugins \(ROADWORTHY_PLUGINS\): .*not the name of a distribution"):
        load_settings(environment={**environment, "ROADWORTHY_PLUGINS": "../evil"}, folder=tmp_path)


LAYER = """
class Layer:
    name = "{name}"
    interface = 1
    order = 50
    parameters = dict
    wrap = staticmethod(lambda below, parameters, context: below)

LAYER = Layer()
"""


@pytest.mark.parametrize(("size", "state"), [(64, plugins.LOADED), (65, plugins.WRONG_INTERFACE)])
def test_a_layer_that_is_loaded_can_be_reported(packages: Path, size: int, state: str) -> None:
    """Its name fits into the report of a worker, which the agent would otherwise not accept."""
    name = "x" * size
    plant(packages, f"layers-{size}", LAYER.format(name=name), f"[roadworthy.layers]\n{name} = layers_{size}:LAYER\n")
    plugins.allow([f"layers-{size}"])
    found = states()[f"layers-{size}", name]
    assert found.state == state, found.reason
    assert state == plugins.LOADED or "64 characters at most" in found.reason
    loaded = tuple(each for each in plugins.plugins(plugins.LAYERS) if each == name)
    assert loaded == ((name,) if state == plugins.LOADED else ())
    frame = Telemetry("g", "b", 1, 1, workers=(WorkerReport(0, 1, "b", "e", 1, 1, layers=loaded),))
    assert decode_telemetry(encode_telemetry(frame)).workers[0].layers == loaded
