"""A worker with everything around it in this process: store, exchange, clock, stop."""

import threading

import numpy as np
from param_server.wire import Push

import caffe
from barista.actor import Actor
from barista.exchange import LocalExchange
from barista.learner import Learner, load_nets
from barista.outbox import Identity
from barista.rounds import RoundRequest
from barista.worker import Worker
from replay import ReplayBuffer
from tests import tiny

IDENTITY = Identity("run", "host-0", "first")
NUM_ENVS = 4


class Watched(LocalExchange):
    """An exchange that keeps what passes, and fails where it is told to."""

    def __init__(self, store):
        super().__init__(store)
        self.pushes, self.gradients, self.pulls, self.target_pulls = [], [], [], []
        self.left = []  # how many pushes there were at each leaving
        self.failures = {}  # number of the push, from 1 → errors to raise before it succeeds
        self.before_push = {}  # number of the push → what happens first

    def pull(self, known, out, /):
        self.pulls.append(known)
        return super().pull(known, out)

    def pull_target(self, known, out, /):
        self.target_pulls.append(known)
        return super().pull_target(known, out)

    def push(self, push, gradient, out, /):
        self.pushes.append(push)
        errors = self.failures.get(push.sequence, [])
        if errors:
            raise errors.pop(0)
        self.before_push.pop(push.sequence, lambda: None)()
        self.gradients.append(gradient.copy())
        return super().push(push, gradient, out)

    def leave(self, worker, incarnation, /):
        self.left.append(len(self.gradients))
        return super().leave(worker, incarnation)


class Clock:
    """Time passes when the worker waits, and a little whenever it looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.001
        return self.now


class Stop(threading.Event):
    """Waiting for it takes the clock's time instead of the test's."""

    def __init__(self, clock):
        super().__init__()
        self.clock, self.waits = clock, []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        self.clock.now += timeout
        return self.is_set()


class Rig:
    """A worker with its store, its exchange and its clock."""

    def __init__(self, model, *, rules=None, overlaps=False, way=Watched, **changes):
        caffe.set_random_seed(0)
        self.config = tiny.config(**{"num_envs": NUM_ENVS, "warmup": 40, **changes})
        self.nets = load_nets(model, batch_size=16, num_envs=NUM_ENVS)
        self.store = tiny.sgd_store(
            self.nets.online, target_period=self.config.target_period, rules=rules
        )
        self.exchange = way(self.store)
        self.game = tiny.Catch(NUM_ENVS, seed=1)
        self.clock = Clock()
        self.stop = Stop(self.clock)
        exploring, drawing = np.random.default_rng(0).spawn(2)
        self.replay = ReplayBuffer(
            self.config.replay_share, frame_shape=(5, 5), stack=1, num_envs=NUM_ENVS,
            n_step=self.config.n_step, gamma=self.config.gamma, rng=drawing,
        )  # fmt: skip
        self.actor = Actor(self.game, self.nets.act, self.replay, self.config, exploring)
        self.learner = Learner(self.nets, self.config, 3)
        self.worker = Worker(
            actor=self.actor,
            learner=self.learner,
            replay=self.replay,
            exchange=self.exchange,
            config=self.config,
            identity=IDENTITY,
            layout=self.store.layout,
            overlaps=overlaps,
            clock=self.clock,
        )

    def run(self, quota, number=1, **fields):
        row = self.worker.run_round(RoundRequest(number, quota=quota, **fields), self.stop)
        self.store.check()
        self.replay.check()
        return row

    def report(self, *, worker="host-1", sequence=1, **fields):
        """Have another worker push a gradient of zeros, from the newest weights."""
        push = Push(
            run="run", worker=worker, incarnation="i", sequence=sequence, epoch=self.store.epoch,
            version=self.store.version, layout=self.store.layout.digest, **fields,
        )  # fmt: skip
        return self.store.apply(push, np.zeros(self.store.layout.size, np.float32))
