"""A parameter server in the driver's process: what a driver asks of any, without a network."""

import numpy as np
import pytest
from param_server.errors import UserMistake
from param_server.wire import Push

from barista.driver.interrupts import Interrupts
from barista.driver.local_server import LocalServer
from barista.playing.episodes import Evaluation
from barista.playing.evaluation import Score
from tests import tiny


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "net.prototxt").write_text(tiny.MODEL)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(tiny.SOLVER.format(net=tmp_path / "net.prototxt"))
    return [str(solver), "--snapshot-dir", str(tmp_path / "snapshots"), "--run", "r", "--seed", "1"]


def push(server, sequence):
    """Push a gradient of ones; return the answer and the weights that it brings."""
    size = server.parameters
    status = server.status()
    sent = Push(
        run="r", worker="w", incarnation="first", sequence=sequence,
        epoch=status["epoch"], version=status["version"], layout=status["layout"], want_model=True,
    )  # fmt: skip
    return server.exchange.push(sent, np.ones(size, np.float32), np.empty(size, np.float32))


def test_weights_change_by_pushes_and_are_kept(arguments, tmp_path):
    said = []
    with LocalServer.open(arguments, said.append, Interrupts()) as server:
        before = server.model()
        answer, after = push(server, 1)
        assert (answer.status, after.version) == ("applied", 1)
        assert not np.array_equal(before.weights, after.weights)
        assert np.array_equal(server.model().weights, after.weights)
        written = server.snapshot()
        assert (written.version, written.path) == (1, tmp_path / "snapshots" / "1")
        result = Evaluation((1.0, 3.0), (4, 4), complete=True)
        server.report(Score(written.epoch, 1, result, written.path))
        push(server, 2)
        assert any(one["best"] for one in server.status()["snapshots"]["available"])
        assert server.finish(tmp_path / "snapshots") == tmp_path / "snapshots" / "2"
    assert said == []

    with LocalServer.open(
        [*arguments, "--resume", str(tmp_path)], said.append, Interrupts()
    ) as server:
        assert server.status()["version"] == 2
    assert "version 2" in said[0]


def test_what_was_pushed_last_is_on_disk_in_the_end(arguments, tmp_path):
    with LocalServer.open(arguments, print, Interrupts()) as server:
        push(server, 1)
    assert (tmp_path / "snapshots" / "1" / "manifest.json").is_file()


def test_an_interrupt_does_not_end_an_update_half_way(arguments):
    interrupts = Interrupts()
    with LocalServer.open(arguments, print, interrupts) as server:
        store = server._core.store
        apply = store.exchange

        def interrupted(*parts):
            interrupts._on_signal()
            return apply(*parts)

        store.exchange = interrupted
        with pytest.raises(KeyboardInterrupt):
            push(server, 1)
        store.exchange = apply
        assert server.status()["version"] == 1
        with pytest.raises(KeyboardInterrupt):
            interrupts._on_signal()


def test_a_wrong_option_is_the_users_mistake(arguments):
    with (
        pytest.raises(UserMistake, match="staleness"),
        LocalServer.open([*arguments, "--staleness", "nonsense"], print, Interrupts()),
    ):
        pass
