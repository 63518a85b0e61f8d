"""A hundred updates by engine, learner, store and solver equal the same hundred written by hand.

The hand-written side is plain PyTorch: the network as modules, the loss as its formula, autograd,
and Adam as Kingma and Ba (2015) have it in the efficient form of their section 2.
"""

import numpy as np
import pytest
import torch
from param_server.engine import Engine
from param_server.store import Store
from param_server.wire import Push

from barista.config import defaults_for
from barista.exchange import LocalExchange
from barista.games.models import q_network
from barista.games.solvers import adam_solver
from barista.learner import Learner, load_nets
from replay import Batch

UPDATES = 100
B, C, SIZE, ACTIONS = 16, 2, 16, 4
LR, BETA1, BETA2, TARGET_PERIOD = 1e-3, 0.9, 0.999, 20
# With the usual 1e-8, Adam turns a gradient that is nothing but rounding into a whole step, and
# two orders of summation part after some thirty updates.
DELTA = 1e-4


class ByHand:
    """The Snake network, its targets, its loss and Adam."""

    def __init__(self, weights):
        self.net, self.target = self._network(), self._network()
        self._load(self.net, weights)
        self._load(self.target, weights)
        self.parameters = list(self.net.parameters())
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.t = 0

    @staticmethod
    def _network():
        nn = torch.nn
        return nn.Sequential(
            nn.Conv2d(C, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(32 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, ACTIONS),
        )  # fmt: skip

    @staticmethod
    def _load(net, weights):
        torch.nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), net.parameters())

    def flat(self):
        return torch.nn.utils.parameters_to_vector(self.parameters).detach().numpy()

    def update(self, batch):
        states = torch.from_numpy(batch.states).float() / 255
        next_states = torch.from_numpy(batch.next_states).float() / 255
        actions = torch.from_numpy(batch.actions)
        with torch.no_grad():  # double Q-learning: θ selects, θ⁻ evaluates
            best = self.net(next_states).argmax(dim=1, keepdim=True)
            value = self.target(next_states).gather(1, best).squeeze(1)
            y = torch.from_numpy(batch.rewards) + torch.from_numpy(batch.discounts) * value
        q = self.net(states).gather(1, actions[:, None]).squeeze(1)
        delta = (y - q).abs()
        loss = torch.where(delta < 1, delta**2 / 2, delta - 0.5).mean()
        gradients = torch.autograd.grad(loss, self.parameters)
        self.t += 1
        rate = LR * (1 - BETA2**self.t) ** 0.5 / (1 - BETA1**self.t)
        with torch.no_grad():
            for p, g, m, v in zip(self.parameters, gradients, self.m, self.v, strict=True):
                m.mul_(BETA1).add_((1 - BETA1) * g)
                v.mul_(BETA2).add_((1 - BETA2) * g * g)
                p.sub_(rate * m / (v.sqrt() + DELTA))
        if self.t % TARGET_PERIOD == 0:
            self._load(self.target, self.flat())
        return loss.item()


def batches(rng):
    while True:
        yield Batch(
            rng.integers(0, 256, (B, C, SIZE, SIZE), np.uint8),
            rng.integers(0, ACTIONS, B),
            rng.normal(size=B).astype(np.float32) * 2,  # some errors beyond Huber's corner
            rng.choice([0.0, 0.857375], B).astype(np.float32),
            rng.integers(0, 256, (B, C, SIZE, SIZE), np.uint8),
            np.ones(B, np.float32),
            np.arange(B),
        )


@pytest.mark.timeout(120)
def test_a_hundred_updates_equal_those_written_by_hand(tmp_path):
    net_file, solver_file = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    net_file.write_text(q_network("snake", ACTIONS, C, SIZE, SIZE, batch=B))
    solver = adam_solver("snake", str(net_file)).replace("delta: 1e-08", f"delta: {DELTA}")
    solver_file.write_text(solver)
    (tmp_path / "work").mkdir()
    engine = Engine(solver_file, roots=[tmp_path], work=tmp_path / "work", seed=4)
    store = Store(
        engine.layout, engine.weights, apply=engine.apply, reset=engine.reset, epoch=1,
        clock=lambda: 0.0, target_period=TARGET_PERIOD,
    )  # fmt: skip
    exchange = LocalExchange(store)
    nets = load_nets(str(net_file), batch_size=B, num_envs=1)
    learner = Learner(nets, defaults_for("ddq/Snake-v0", batch_size=B), 4)
    weights = np.empty_like(engine.weights)
    learner.set_weights(exchange.pull(None, weights).weights)
    learner.set_target_weights(exchange.pull_target(None, weights).weights)
    by_hand = ByHand(engine.weights)
    before = engine.weights.copy()

    for number, batch in zip(
        range(1, UPDATES + 1), batches(np.random.default_rng(5)), strict=False
    ):
        loss = learner.gradient(batch).loss
        assert loss == pytest.approx(by_hand.update(batch), rel=1e-4)
        push = Push(
            run="r", worker="w", incarnation="i", sequence=number, epoch=1, version=number - 1,
            layout=engine.layout.digest, loss=loss, want_model=True,
        )  # fmt: skip
        answer, model = exchange.push(push, learner.flat_gradient, weights)
        assert (answer.status, answer.version) == ("applied", number)
        learner.set_weights(model.weights)
        if answer.target_version == number:
            learner.set_target_weights(exchange.pull_target(None, weights).weights)

    moved = np.abs(engine.weights - before)
    assert moved.max() > 10 * LR
    # Float32 sums in another order, a hundred times: far below what one update moves.
    np.testing.assert_allclose(engine.weights, by_hand.flat(), atol=LR / 50)
