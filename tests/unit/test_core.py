"""A server without a network: it begins with a snapshot, ends with one, and goes on from there."""

import numpy as np
import pytest
from param_server.core import compose, working_folder
from param_server.errors import UserMistake
from param_server.options import Config
from param_server.wire import Push

from tests import tiny


@pytest.fixture
def solver(tmp_path):
    (tmp_path / "net.prototxt").write_text(tiny.MODEL)
    path = tmp_path / "solver.prototxt"
    path.write_text(tiny.SOLVER.format(net=tmp_path / "net.prototxt"))
    return path


def push(core, sequence):
    store = core.store
    sent = Push(
        run="a run", worker="w", incarnation="first", sequence=sequence,
        epoch=store.epoch, version=store.version, layout=store.layout.digest,
    )  # fmt: skip
    answer = store.apply(sent, np.ones(store.layout.size, np.float32))
    core.durability.acknowledge(store)
    return answer


@pytest.mark.parametrize("durability", ["interval", "acknowledged"])
def test_a_second_life_goes_on_where_the_first_ended(tmp_path, solver, durability):
    config = Config(solver=solver, seed=1, durability=durability, game="catch")
    news = []
    with working_folder(tmp_path / "snapshots", keep=2) as (folder, work):
        core = compose(config, folder, work, news.append)
        core.snapshotter.start()
        assert [push(core, n).status for n in (1, 2)] == ["applied", "applied"]
        assert core.drain().endswith(str(tmp_path / "snapshots" / "2"))
        status, weights = core.status(), core.engine.weights.copy()
        core.durability.close()
    assert news == []
    assert (status["version"], status["durability"], status["resumed"]) == (2, durability, None)
    assert [entry.name for entry in (tmp_path / "snapshots").glob(".tmp*")] == []

    again = Config(resume=tmp_path / "snapshots", seed=1, durability=durability)
    with working_folder(tmp_path / "snapshots", keep=2) as (folder, work):
        core = compose(again, folder, work, news.append)
        assert (core.store.version, core.store.game) == (2, "catch")
        assert np.array_equal(core.engine.weights, weights)
        assert core.drain() == "stopped at version 2"
        core.durability.close()
    assert [(resumed.version, resumed.lost_updates) for resumed in news] == [(2, 0)]


def test_the_default_solver_is_the_deep_q_networks(tmp_path):
    with working_folder(tmp_path / "snapshots", keep=2) as (folder, work):
        core = compose(Config(seed=1), folder, work, print)
        assert core.store.layout.size == 1_687_206
        core.durability.close()


def test_rules_that_exclude_each_other_are_refused(tmp_path, solver):
    solver.write_text(solver.read_text() + "iter_size: 2\n")
    config = Config(solver=solver, staleness="sync:2")
    with (
        working_folder(tmp_path / "snapshots", keep=2) as (folder, work),
        pytest.raises(UserMistake, match="iter_size: 2 exclude"),
    ):
        compose(config, folder, work, print)
