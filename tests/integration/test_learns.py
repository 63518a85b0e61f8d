"""The canary: a worker learns a small game through a real server, and chance does not.

What has to hold for this, and is tested alone elsewhere: stacks, targets, gradients, the wire, the
server's solver, the weights' way back.  A sign lost anywhere, and nothing is learned.
"""

import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from param_server.client import Client

import caffe
from barista.assembly import make_worker
from barista.learner import load_nets, q_values
from barista.outbox import Identity
from barista.rounds import RoundRequest
from tests import tiny
from tests.embedded import answering

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the tests"
UPDATES = 1200
LEARNED = 0.9


@contextmanager
def server(folder, solver):
    """Run an embedded server; yield its address.  It ends when its stdin does."""
    process = subprocess.Popen(
        [
            sys.executable, str(ROOT / "param-server/server.py"), solver, "--embedded",
            "--seed", "0", "--target-period", "50", "--snapshot-dir", str(folder / "snapshots"),
        ],
        env={**os.environ, "DDQ_TOKEN": TOKEN, "DDQ_ROOT": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    with answering(process) as address:
        yield address


def train(address, model, *, name, updates, quota, seed=0):
    """Train one worker until the round is over; return its client, networks and row."""
    client = Client(address, TOKEN, run="canary", worker=name)
    try:
        nets = load_nets(model, batch_size=16, num_envs=8)
        worker = make_worker(
            tiny.config(seed=seed, workers=quota // updates),
            game=tiny.Catch(8, seed=seed),
            nets=nets,
            exchange=client,
            identity=Identity("canary", name, "first"),
        )
        row = worker.run_round(RoundRequest(1, quota=quota, deadline_s=150.0))
        return nets, row, client.status()
    finally:
        client.close()


def score(nets):
    return tiny.play_greedily(tiny.Catch(8, seed=99), lambda s: q_values(nets.act, s, 3), 400)


def test_chance_does_not_catch():
    rng = np.random.default_rng(0)
    returns = tiny.play_greedily(
        tiny.Catch(8, seed=99), lambda states: rng.random((len(states), 3)), 400
    )
    assert returns < 0


@pytest.mark.timeout(180)
def test_one_worker_learns_catch_through_a_server(tmp_path, no_stray_processes):
    model, solver = tiny.write_model(tmp_path)
    caffe.set_num_threads(1)
    with server(tmp_path, solver) as address:
        nets, row, status = train(address, model, name="a", updates=UPDATES, quota=UPDATES)
    assert row["applied"] == status["version"] == UPDATES
    assert row["steps"] == status["steps"]
    assert score(nets) >= LEARNED


@pytest.mark.timeout(180)
def test_two_workers_learn_catch_together(tmp_path, no_stray_processes):
    """Asynchronous, so no two runs are alike; both workers push, and the sum is the quota.

    Half as many updates again as one worker needs: the last ones of two are less settled.
    """
    updates = UPDATES * 3 // 2
    model, solver = tiny.write_model(tmp_path)
    caffe.set_num_threads(1)
    trained = {}
    with server(tmp_path, solver) as address:

        def work(name, seed):
            trained[name] = train(
                address, model, name=name, updates=updates, quota=2 * updates, seed=seed
            )

        threads = [threading.Thread(target=work, args=pair) for pair in (("a", 1), ("b", 2))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = [row for _, row, _ in trained.values()]
    assert sum(row["applied"] for row in rows) == 2 * updates
    assert all(row["applied"] > updates / 10 for row in rows)
    assert all(row["late"] <= 1 for row in rows)
    assert max(score(nets) for nets, _, _ in trained.values()) >= LEARNED
