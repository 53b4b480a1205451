"""The catalogue of peers, without installing any: each gets the same row in its own form, and its answer is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.peers.catalogue import PEERS, Start
from bench.peers.environment import NotAvailableError, run

ANSWERS = {
    "MLflow": '"predictions": [[0.25, 0.75]]}',
    "MLServer": '{"outputs": [{"name": "predict_proba", "shape": [1, 2], "data": [0.25, 0.75]}]}',
    "PyTriton": '{"model_name":"cells","outputs": [{"name": "predict_proba", "shape": [1, 2], "data": [0.25, 0.75]}]}',
}
PLAIN = '"predictions":[{"label":1,"probabilities":[0.25,0.75]}]}'


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_asked_and_read_in_its_own_form(name: str, tmp_path: Path) -> None:
    """Every number of a row is sent, and the second class's probability is found in the answer."""
    peer = PEERS[name]
    (body,) = peer.bodies(np.array([[1.5, 2.5]]))
    assert json.loads(body)
    assert b"[1.5,2.5]" in body
    assert peer.read(ANSWERS.get(name, PLAIN)) == 0.75
    command = peer.command(Start(Path("/peer/bin"), Path("/model.joblib"), 4_321, tmp_path))
    assert command[0].startswith("/peer/bin/")


def test_the_reason_why_a_peer_is_not_available_is_given() -> None:
    """The last line of a failed command's output is the reason."""
    with pytest.raises(NotAvailableError, match="no such thing"):
        run(["bash", "-c", "echo first; echo no such thing; exit 1"])
