"""A worker that computes in the memory it shares with the server, bit by bit what others do."""

import contextlib

import numpy as np
import pytest
from param_server.best_exchange import BestExchange
from param_server.client import Client
from param_server.errors import ServerUnreachable

import caffe
from tests import tiny
from tests.rig import Rig
from tests.same_host_rig import sharing
from tests.server_rig import TOKEN, running

QUOTA = 40
PERIODS = {"target_period": 7}


@pytest.fixture
def model(tmp_path):
    return tiny.write_model(tmp_path)[0]


@pytest.fixture(params=["float32", "bf16-all"])
def precision(request):
    caffe.set_precision(request.param)
    yield request.param
    caffe.set_precision("float32")


class Served(contextlib.ExitStack):
    """Ways to a store by shared memory and HTTP; `paths` are the sockets that are listened on."""

    def __call__(self, store):
        self.service = self.enter_context(running(store))
        self.path = self.enter_context(sharing(self.service))
        client = Client(self.service.server.address, TOKEN, run="run", worker="host-0")
        self.exchange = BestExchange(client)
        self.callback(self.exchange.close)
        assert self.exchange.is_same_host
        return self.exchange


def weights_alone(model, **changes):
    rig = Rig(model, **changes)
    rig.run(QUOTA)
    return tiny.weights_of(rig.store)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize(
    "changes",
    [PERIODS, {**PERIODS, "push_period": 3, "pull_period": 2}, {**PERIODS, "double": True}],
    ids=["every gradient", "means of three", "double"],
)
def test_weights_are_those_of_a_worker_that_copies(model, changes):
    with Served() as served:
        rig = Rig(model, way=served, **changes)
        served.exchange.lend_to(rig.learner.move)
        rig.run(QUOTA)
        shared = served.exchange._same_host._line.memory
        for array in (rig.nets.online.param_arena, rig.nets.act.param_arena):
            assert np.may_share_memory(array, shared.weights)
        assert np.may_share_memory(rig.learner.flat_gradient, shared.gradient)
        assert rig.store.version == QUOTA
        assert np.array_equal(tiny.weights_of(rig.store), weights_alone(model, **changes))


WORD = {"before a push": b'"push"', "in a push": b'"push"', "at a target": b'"target"'}


@pytest.mark.parametrize("loses", WORD)
def test_a_connection_that_ends_costs_nothing(model, loses, monkeypatch):
    """After it the worker goes on by HTTP, in memory of its own."""
    with Served() as served:
        rig = Rig(model, way=served, **PERIODS)
        served.exchange.lend_to(rig.learner.move)
        rig.run(QUOTA // 2)
        same_host = served.exchange._same_host
        lent = same_host._line.memory
        ask, cut = same_host._exchange, []

        def dies(line, frame):
            """Pass on what comes before; then have an answer be lost that weights went with."""
            if WORD[loses] not in frame:
                return ask(line, frame)
            if loses != "before a push":
                ask(line, frame)
                line.memory.weights[...] = np.nan
            cut.append(frame)
            served.path.close()
            same_host._hang_up()
            raise ServerUnreachable(same_host.path, "cut")

        monkeypatch.setattr(same_host, "_exchange", dies)
        rig.run(QUOTA // 2, number=2)
        assert len(cut) == 1
        assert not served.exchange.is_same_host
        assert rig.store.version == QUOTA
        weights = rig.nets.online.param_arena
        assert not np.may_share_memory(weights, lent.weights)
        copying = Rig(model, **PERIODS)
        copying.run(QUOTA // 2)
        copying.run(QUOTA // 2, number=2)
        assert np.array_equal(tiny.weights_of(rig.store), tiny.weights_of(copying.store))
