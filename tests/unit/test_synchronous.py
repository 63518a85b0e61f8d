"""Synchronous rounds: what becomes of the pushes of all workers, without Spark."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from param_server.wire import Counters, Model, Push

from barista import assembly, mailbox, options
from barista.config import AgentConfig, ConfigError
from barista.driver import command_line, synchronous
from barista.driver.interrupts import Interrupts
from barista.driver.local_server import LocalServer
from barista.driver.serial import SerialRounds, make_workers
from barista.driver.synchronous import Updates
from barista.mailbox import Mailbox, push_id
from barista.outbox import Identity
from barista.rounds import RoundRequest
from tests import tiny

GAME = "tests.catch_env:Catch-v0"
UPDATES = 30


@pytest.fixture
def arguments(tmp_path):
    net, solver = tiny.write_model(tmp_path)
    del net
    return [solver, "--run", "r", "--seed", "1", "--target-period", "10"]


def served(arguments, folder):
    told = [*arguments, "--snapshot-dir", str(folder)]
    return LocalServer.open(told, print, Interrupts())


def agent(workers):
    return tiny.config(game=GAME, workers=workers, seed=3, overlap="off")


class Threads:
    """Workers in threads, each with a mailbox, in the place of Baristas."""

    def __init__(self, config, net):
        hands = assembly.hands(config, threads=1)
        self.boxes = [Mailbox(threading.Condition()) for _ in range(config.workers)]
        self.workers = [
            assembly.build(
                config, net, hands, exchange=box, identity=Identity("r", f"w{at}", "i"), ordinal=at
            )
            for at, box in enumerate(self.boxes)
        ]
        self.pool = ThreadPoolExecutor(config.workers)

    def run_round(self, updates, request):
        asked = RoundRequest(**request)
        rows = [self.pool.submit(worker.run_round, asked) for worker in self.workers]

        def carry(errand):
            results = []
            for box in self.boxes:
                box.deliver_target(errand.target)
                box.deliver(errand.order)
                results.append({"push": self.next_push(box)} if not errand.order.is_last else None)
            return results if results[0] else [row.result(10) for row in rows]

        return updates.run_round(request, carry)

    @staticmethod
    def next_push(box):
        with box._changed:
            assert box._changed.wait_for(lambda: box.push_frame, 20)
            return box.push_frame

    def close(self):
        for box, worker in zip(self.boxes, self.workers, strict=True):
            box.close()
            worker.close()
        self.pool.shutdown()


def train(arguments, folder, workers):
    config = agent(workers)
    with served(arguments, folder) as server:
        threads = Threads(config, folder.parent / "train_val.prototxt")
        updates = Updates(server, "r", workers)
        request = {"number": 1, "quota": workers * UPDATES, "deadline_s": math.inf}
        rows = threads.run_round(updates, request)
        threads.close()
        return rows, server.status(), server.model().weights


def test_one_worker_learns_what_it_would_serially(arguments, tmp_path):
    rows, status, weights = train(arguments, tmp_path / "in-step", 1)
    with served(arguments, tmp_path / "serial") as server:
        workers = make_workers(agent(1), tmp_path / "train_val.prototxt", server, "r")
        serial = SerialRounds(workers).start({"number": 1, "quota": UPDATES})
        assert serial.wait(30)
        expected = server.model().weights
        workers[0].close()
        assert status["steps"] == server.status()["steps"]
    assert np.array_equal(weights, expected)
    assert rows[0]["applied"] == status["version"] == UPDATES


def test_two_workers_make_one_update_together_and_twice_the_same(arguments, tmp_path):
    rows, status, weights = train(arguments, tmp_path / "first", 2)
    assert [row["applied"] for row in rows] == [UPDATES] * 2
    assert [row["staleness_mean"] for row in rows] == [0, 0]
    assert (status["version"], status["round"]["over"]) == (UPDATES, True)
    assert status["steps"] == sum(row["steps"] for row in rows)
    assert np.array_equal(weights, train(arguments, tmp_path / "again", 2)[2])


class Recorder:
    """A server that keeps what it is told."""

    def __init__(self):
        self.told = []

    def model(self):
        return Model(1, len(self.told), 0, "digest", Counters(), np.zeros(2, np.float32))

    target = model

    def update(self, push, gradient):
        self.told.append((push, gradient.copy()))
        is_over = len(self.told) >= push.quota
        return synchronous_answer(len(self.told), is_over=is_over)


def synchronous_answer(version, *, is_over):
    from param_server.wire import PushAnswer

    return PushAnswer("applied", "", 1, version, 0, 0, Counters(), is_over, 0)


def pushed(worker, value, *, incarnation="i", version=0, **more):
    push = Push("r", worker, incarnation, 1, epoch=1, version=version, layout="digest", **more)
    return {"push": mailbox.encode_push(push, np.full(2, value, np.float32))}


def run(server, *results, clock=lambda: 0.0, deadline_s=60.0, quota=2):
    """Run a round whose jobs return these results; return its rows and orders."""
    orders, left = [], list(results)

    def carry(errand):
        orders.append(errand.order)
        return left.pop(0)

    request = {"number": 1, "quota": quota, "deadline_s": deadline_s}
    return Updates(server, "r", 2, clock).run_round(request, carry), orders


ROWS = [{"worker": "a"}, {"worker": "b"}]


def test_an_update_is_the_mean_and_reports_for_all():
    server = Recorder()
    first = pushed("a", 1, loss=1.0, steps=3, episodes=(1.0,), stats={"epsilon": 0.5, "act_s": 1.0})
    second = pushed("b", 3, loss=3.0, steps=4, stats={"epsilon": 0.7, "act_s": 2.0})
    rows, orders = run(server, [first, second], ROWS)
    [(push, gradient)] = server.told
    assert gradient.tolist() == [2, 2]
    assert (push.worker, push.quota, push.steps, push.loss) == ("all", 1, 7, 2.0)
    assert push.episodes == (1.0,)
    assert push.stats == {"epsilon": 0.6, "act_s": 3.0}
    assert [order.number for order in orders] == [1, 2]
    assert orders[1].is_last
    assert orders[1].answered == {("a", "i", 1), ("b", "i", 1)}
    assert [row["worker"] for row in rows] == ["a", "b"]


def test_time_ends_a_round_with_the_pushes_that_have_come():
    server = Recorder()
    _, orders = run(server, [ROWS[0], pushed("b", 3)], ROWS, quota=200)
    assert server.told[0][1].tolist() == [3, 3]
    assert orders[-1].is_last
    times = iter([0.0, 0.0, 61.0, 61.0])
    pushes = [pushed("a", 1), pushed("b", 1)]
    _, orders = run(Recorder(), pushes, ROWS, clock=lambda: next(times), quota=200)
    assert [order.is_last for order in orders] == [False, True]


def test_whose_barista_is_another_one_is_named():
    again = [pushed("a", 1, incarnation="j", version=1), pushed("b", 1, version=1)]
    lost = [{"restarts": ["Barista 7 died"]}, ROWS[1]]
    rows, _ = run(Recorder(), [pushed("a", 1), pushed("b", 1)], again, lost, quota=4)
    assert rows[0]["restarts"] == ["the Barista of partition 0 was gone", "Barista 7 died"]


def test_a_push_of_older_weights_is_not_applied():
    server = Recorder()
    again = [pushed("a", 5), pushed("b", 3, version=1)]
    _, orders = run(server, [pushed("a", 1), pushed("b", 1)], again, ROWS, quota=200)
    assert [gradient.tolist() for _, gradient in server.told] == [[1, 1], [3, 3]]
    assert orders[-1].answered == {("b", "i", 1)}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--server", "a:1"], "--server and --exchange spark exclude each other"),
        (["--serial"], "--serial and --exchange spark exclude each other"),
        (["--lease", "9"], "--lease and --exchange spark"),
        (["--staleness", "scale"], "--staleness scale and --exchange spark"),
        (["--durability", "acknowledged"], "--durability acknowledged is for a server"),
        (["--pull-period", "2"], "--exchange spark needs --pull-period 1"),
        (["--wire-dtype", "bfloat16"], "--exchange spark needs --wire-dtype float32"),
        (["--overlap", "on"], "--overlap on and --exchange spark"),
    ],
)
def test_what_needs_a_server_is_refused(typed, said):
    given = command_line.driver_parser().parse_args(["--exchange", "spark", *typed])
    with pytest.raises(ConfigError, match=said):
        synchronous.check(given, options.agent_config(given, {}))


def test_synchronous_staleness_is_what_it_is():
    given = command_line.driver_parser().parse_args(["--exchange", "spark", "--staleness", "sync"])
    synchronous.check(given, AgentConfig())


def test_a_push_is_named_by_its_worker_and_sequence():
    assert push_id(mailbox.decode_push(pushed("a", 1)["push"])[0]) == ("a", "i", 1)
