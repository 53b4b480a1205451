"""`roadworthy audit list` against a real control plane."""

from __future__ import annotations

from roadworthy.client import Client
from tests.cli.conftest import Run, read
from tests.control_plane import ControlProcess


def test_the_newest_entries_of_one_subject_or_all(run: Run, control: ControlProcess) -> None:
    """As a table and as JSON, newest first, with the id of the key that acted."""
    environment = {"ROADWORTHY_CONTROL_URL": control.url, "ROADWORTHY_KEY": control.admin_key}
    with Client(control_url=control.url, key=control.admin_key) as client:
        key_id = client.create_key("predictor", ["flights"]).id
        client.revoke_key(key_id)
    first, created = read(run("audit", "list", "--subject", key_id, "--json", **environment))
    assert (first["verb"], created["verb"], created["subject"]) == ("key-revoke", "key-create", key_id)
    assert created["detail"] == {"role": "predictor", "name": key_id}
    assert read(run("audit", "list", "--last", "1", "--json", **environment)) == [first]
    table = run("audit", "list", "--subject", key_id, **environment).stdout.splitlines()
    assert table[0].split() == ["AT", "ACTOR", "VERB", "SUBJECT", "DETAIL"]
    assert table[1].split()[:4] == [first["at"], first["actor"], "key-revoke", key_id]
    assert read(run("audit", "list", "--subject", "nobody", "--json", **environment)) == []
