"""A game that is learned in seconds, a network for it, and a server's store in this process."""

import numpy as np
from param_server.store import Store
from param_server.wire import Layout

from barista.config import AgentConfig
from barista.games.vector import FrameStack, GameSpec, Tally, VectorStep
from replay import Batch

SIZE = 5

MODEL = """
name: "catch"
layer { name: "state" type: "Input" top: "state"
        input_param { shape { dim: 16 dim: 1 dim: 5 dim: 5 } } }
layer { name: "scale" type: "Power" bottom: "state" top: "scaled"
        power_param { scale: 0.00392156862745098 } }
layer { name: "fc1" type: "InnerProduct" bottom: "scaled" top: "fc1"
        inner_product_param { num_output: 32 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "Q_out" type: "InnerProduct" bottom: "fc1" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""

SOLVER = """
net: "{net}"
type: "Adam"
base_lr: 0.003
lr_policy: "fixed"
momentum: 0.9
momentum2: 0.999
delta: 1e-8
"""


class SentAndReceived:
    """A game whose step is done when it is received."""

    def send(self, actions):
        self._sent = actions

    def receive(self):
        return self.step(self._sent)


class Catch(SentAndReceived):
    """N copies of catch: a ball falls down a 5×5 board onto a paddle, or beside it.

    Actions: left, stay, right.  The reward is 1 or −1 at the end of an episode of four steps;
    the best mean return is 1, chance gets about −0.6.
    """

    spec = GameSpec("catch", num_actions=3, frame_shape=(SIZE, SIZE), stack=1)

    def __init__(self, num_envs, seed):
        self.num_envs = num_envs
        self.is_closed = False
        self._rng = np.random.default_rng(seed)
        self._ball = np.zeros((num_envs, 2), int)  # row, column
        self._paddle = np.zeros(num_envs, int)  # column
        self._over = np.zeros(num_envs, bool)
        self._stack = FrameStack(num_envs, 1, (SIZE, SIZE))
        self._tally = Tally(num_envs)

    def reset(self):
        self._start(np.ones(self.num_envs, bool))
        self._over[:] = False
        return self._draw()

    def step(self, actions):
        is_reset = self._over
        self._start(is_reset)
        moves = np.where(is_reset, 0, actions - 1)
        self._paddle = np.clip(self._paddle + moves, 0, SIZE - 1)
        self._ball[~is_reset, 0] += 1
        self._over = self._ball[:, 0] == SIZE - 1
        caught = np.where(self._paddle == self._ball[:, 1], 1, -1)
        rewards = np.where(self._over, caught, 0).astype(np.float32)
        returns, lengths = self._tally.add(rewards, self._over, is_reset)
        none = np.zeros(self.num_envs, bool)
        return VectorStep(self._draw(), rewards, self._over, none, is_reset, returns, lengths)

    def states(self):
        return self._stack.states

    def close(self):
        self.is_closed = True

    def _start(self, envs):
        count = int(envs.sum())
        self._ball[envs, 0] = 0
        self._ball[envs, 1] = self._rng.integers(SIZE, size=count)
        self._paddle[envs] = self._rng.integers(SIZE, size=count)

    def _draw(self):
        frames = np.zeros((self.num_envs, SIZE, SIZE), np.uint8)
        envs = np.arange(self.num_envs)
        frames[envs, -1, self._paddle] = 128
        frames[envs, self._ball[:, 0], self._ball[:, 1]] = 255
        self._stack.states[:, 0] = frames
        return frames


def batch(size=16):
    """A minibatch of noise of the size of catch, its transitions of equal weight."""
    rng = np.random.default_rng(0)
    states, following = rng.integers(256, size=(2, size, 1, SIZE, SIZE), dtype=np.uint8)
    return Batch(
        states=states,
        actions=rng.integers(3, size=size),
        rewards=rng.normal(size=size).astype(np.float32),
        discounts=rng.choice(np.array([0.0, 0.9], np.float32), size=size),
        next_states=following,
        weights=np.ones(size, np.float32),
        ids=np.arange(size),
    )


def write_model(folder):
    """Write network and solver; return the paths of both."""
    net, solver = folder / "train_val.prototxt", folder / "solver.prototxt"
    net.write_text(MODEL)
    solver.write_text(SOLVER.format(net=net))
    return str(net), str(solver)


def config(**changes):
    """A configuration that suits catch."""
    sizes = {
        "game": "catch",
        "batch_size": 16,
        "n_step": 2,
        "gamma": 0.9,
        "replay_capacity": 2000,
        "warmup": 200,
        "epsilon_steps": 2000,
        "target_period": 50,
    }
    return AgentConfig(**{**sizes, **changes})


def sgd_store(net, *, rate=0.05, clock=lambda: 0.0, **options):
    """A store whose rule is plain gradient descent, at the weights of `net`."""
    weights = net.param_arena.copy()
    start = weights.copy()

    def apply(gradient, scale):
        weights[...] -= rate * scale * gradient

    def reset():
        weights[...] = start

    layout = Layout.from_arena(net.arena_layout)
    return Store(
        layout, weights, apply=apply, reset=reset, epoch=1, clock=clock,
        **{"target_period": 50, **options},
    )  # fmt: skip


def weights_of(store):
    """A copy of a store's weights."""
    return store.read(out=np.empty(store.layout.size, np.float32)).weights


def target_of(store):
    """A copy of a store's target weights."""
    return store.read_target(out=np.empty(store.layout.size, np.float32)).weights


def play_greedily(game, q_values, episodes):
    """Mean return of at least `episodes` episodes, each copy's action the best by `q_values`."""
    game.reset()
    returns = []
    while len(returns) < episodes:
        returns += game.step(q_values(game.states()).argmax(axis=1)).episode_returns
    return float(np.mean(returns))
