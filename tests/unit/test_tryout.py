"""A Barista's start without a server; what it answers is tested with `barista.spark.checkup`."""

import io
import json

import pytest

from barista import tryout
from barista.games.models import q_network
from tests import tiny


@pytest.mark.parametrize(
    ("changes", "net", "said"),
    [
        ({}, "name: 'empty'", "error"),
        ({"device": "cuda:99"}, q_network("snake", 4, 2, 16, 16), "--device cuda:99"),
        ({"game": "Pendulum-v1"}, q_network("snake", 4, 2, 16, 16), "Pendulum-v1"),
    ],
)
def test_what_keeps_a_barista_from_starting_is_one_line(monkeypatch, capsys, changes, net, said):
    config = tiny.config(**{"game": "ddq/Snake-v0", **changes}).to_json()
    question = {"config": config, "net": net, "threads": 1, "gpu": None}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(question) + "\n"))
    assert tryout.main() == 0
    answer = json.loads(capsys.readouterr().out)
    assert said in json.dumps(answer)
    assert "\n" not in answer["error"]
