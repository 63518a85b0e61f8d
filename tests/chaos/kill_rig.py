"""A server that is killed and started again under workers that push, and what is left each time."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from param_server.client import Client
from param_server.wire import Push

from tests.lives import write_model

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token of the tests"
WORKERS, SLOTS = 4, 4096
START_S = 120.0


def environment(folder):
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "param-server", ROOT / "caffe/python")))
    return {**os.environ, "DDQ_TOKEN": TOKEN, "DDQ_ROOT": str(folder), "PYTHONPATH": paths}


class Server:
    """A standalone server process that goes on from its folder whenever it is started again."""

    def __init__(self, folder, mode, *options):
        self.folder, self.mode, self.port = folder, mode, 0
        self.said = []
        self._options = options
        self._process = None
        self.snapshots = folder / "snapshots"

    def start(self, *, killed_after_s=None):
        """Start it; return whether it came up, and was not killed before that."""
        command = [
            sys.executable, str(ROOT / "param-server/server.py"),
            str(self.folder / "solver.prototxt"), "--port", str(self.port), "--run", "r1",
            "--snapshot-dir", str(self.snapshots), "--durability", self.mode, "--no-same-host",
            *self._options,
        ]  # fmt: skip
        if self.port:
            command += ["--resume", str(self.snapshots)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(self.folder), cwd=self.folder,
        )  # fmt: skip
        limit_s = START_S if killed_after_s is None else killed_after_s
        deadline = threading.Timer(limit_s, self._process.kill)
        deadline.start()
        said = []
        for line in self._process.stdout:
            said.append(line.rstrip())
            if line.startswith("status page: "):
                self.port = int(re.search(r":(\d+)/", line)[1])
            if line.startswith("token and address: "):
                break
        deadline.cancel()
        deadline.join()
        self.said += said
        is_up = bool(said) and said[-1].startswith("token and address: ")
        if not is_up and killed_after_s is None:
            raise AssertionError(f"the server did not start: {said}")
        is_alive = is_up and self._process.poll() is None
        if not is_alive:
            self._reap()
        return is_alive

    def resumptions(self):
        """Return the version at which the life after each epoch went on, by that epoch.

        Lives that were killed soon after their start count: they may have answered somebody.
        """
        log = (self.folder / "logs/param-server.log").read_text()
        found, epoch = {}, 0
        events = re.findall(r": resumed at version (\d+) |, epoch (\d+)$", log, re.MULTILINE)
        for version, served in events:
            if served:
                epoch = int(served)
            else:
                found.setdefault(epoch, int(version))
        return found

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def end(self, number):
        """Send a signal and wait for the end; return the exit code."""
        self._process.send_signal(number)
        return self._reap()

    def _reap(self):
        self.said += self._process.communicate(timeout=START_S)[0].splitlines()
        return self._process.returncode

    def close(self):
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)


class Worker:
    """A pushing worker's process and what it has said so far."""

    def __init__(self, index, address, folder):
        self.index = index
        self._log = folder / f"worker-{index}.log"
        self._errors = folder / f"worker-{index}.err"
        with self._log.open("w") as log, self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "tests/chaos/pushing_worker.py"), address,
                 str(index), str(WORKERS)],
                stdin=subprocess.PIPE, stdout=log, stderr=errors,
                env=environment(folder), cwd=folder,
            )  # fmt: skip

    def lines(self):
        """Return the whole lines so far, split into words; it must not have failed."""
        code = self._process.poll()
        assert not code, self._errors.read_text()[-2000:]
        text = self._log.read_text()
        return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]

    def stop(self):
        self._process.stdin.close()
        self._process.wait(START_S)

    def close(self):
        self._process.stdin.close()
        self._process.kill()
        self._process.wait()


class Restart(NamedTuple):
    """What one kill and the start after it have come to."""

    version: int  # resumed at
    printed: int  # updates that the restart said are gone
    lost: int  # acknowledged pushes that are gone
    replayed: int  # changes that the journal did again
    started_s: float  # until it answered again


class Campaign:
    """Kills of one server under four workers, each followed by a look at the model.

    A push that was acknowledged in epoch e as version v is held if the life that followed e went
    on from v or later.  The model must hold each of these once, none that was dropped, none that
    was gone, and of those whose fate is open each at most once.
    """

    def __init__(self, folder, mode, seed):
        folder.mkdir()
        write_model(folder, workers=WORKERS, slots=SLOTS)
        self.rng = np.random.default_rng(seed)
        self.server = Server(folder, mode, "--snapshot-updates", "150", "--snapshot-seconds", "1")
        self.workers = []
        self.restarts = []
        self.killed_at_start = 0
        self._resumed_at = {}  # version at which the life after an epoch went on, by that epoch
        self._epoch = 0
        try:
            self.server.start()
            self.client = Client(self.server.address, TOKEN, run="r1", retry_s=START_S)
            self._epoch = self.client.status()["epoch"]
            for index in range(WORKERS):
                self.workers.append(Worker(index, self.server.address, folder))
        except BaseException:
            self.close()
            raise

    def kill(self, *, longest_s, at_start=0.0):
        """Kill the server after a random while, start it again, and look.

        Args:
            longest_s: Of the while.
            at_start: How often it is killed once more while it starts.
        """
        time.sleep(self.rng.uniform(0.0, longest_s))
        assert self.server.end(signal.SIGKILL) == -signal.SIGKILL
        self.client.close()
        before = len(self.server.said)
        while self.rng.uniform() < at_start:
            if self.server.start(killed_after_s=self.rng.uniform(0.0, 2 * longest_s)):
                assert self.server.end(signal.SIGKILL) == -signal.SIGKILL
            self.killed_at_start += 1
        began = time.monotonic()
        self.server.start()
        started_s = time.monotonic() - began
        resumed = self.client.status()["resumed"]
        # Lives that were killed at their start may have answered pushes, and told of a gap: the
        # same as the next one tells, if they were killed before they noted that they had.
        gaps = [*map(printed_gap, filter(_is_resumption, self.server.said[before:]))]
        self._look(resumed, gaps, started_s)

    def _look(self, resumed, gaps, started_s):
        weights = np.empty(WORKERS * SLOTS, np.float32)
        model = self.client.pull(out=weights)
        self._resumed_at = self.server.resumptions()
        ended, self._epoch = self._epoch, model.epoch
        lost = self._compare(weights.astype(int), model, ended)
        printed = max(*gaps, min(lost, sum(gaps)))
        assert lost <= sum(gaps), f"{lost} acknowledged pushes are gone, {gaps} were printed"
        # In each life one push of each worker may have been applied and not answered.
        assert printed - lost <= WORKERS * len(gaps), f"{printed} were printed, {lost} are gone"
        if self.server.mode == "acknowledged":
            assert printed == 0
        replayed = resumed["replayed"]
        self.restarts.append(Restart(resumed["version"], printed, lost, replayed, started_s))

    def _compare(self, weights, model, ended):
        """See that the model holds what it should; return how many pushes of a life are gone."""
        held, possible, lost = Counter(), Counter(), 0
        for worker in self.workers:
            fates = {}
            for word, number, *where in worker.lines():
                fates[int(number)] = (word, *map(int, where))
            for number, (word, *where) in fates.items():
                place = worker.index * SLOTS + number % SLOTS
                if word == "acknowledged" and self._is_held(*where, model):
                    held[place] += 1
                elif word == "acknowledged":
                    lost += ended <= where[0] < model.epoch
                elif word == "try":
                    possible[place] += 1
        for place, value in enumerate(weights):
            least = held[place]
            assert least <= value <= least + possible[place], (
                f"worker {place // SLOTS}, pushes {place % SLOTS} modulo {SLOTS}: the model holds "
                f"{value}, acknowledged are {least}, open {possible[place]}"
            )
        return lost

    def _is_held(self, epoch, version, model):
        if epoch == model.epoch:
            return version <= model.version
        return version <= self._resumed_at.get(epoch, -1)

    def finish(self):
        """Let the workers end, compare once more with nothing open, stop the server in peace."""
        for worker in self.workers:
            worker.stop()
        weights = np.empty(WORKERS * SLOTS, np.float32)
        model = self.client.pull(out=weights)
        self._compare(weights.astype(int), model, 0)
        assert weights.sum() == model.version
        self.client.close()
        assert self.server.end(signal.SIGTERM) == 0

    def counts(self):
        """Return how many pushes ended in which way."""
        lines = [line for worker in self.workers for line in worker.lines()]
        words = Counter(line[0] for line in lines)
        repeats = sum(line[0] == "acknowledged" and line[3] == "0" for line in lines)
        return {
            "acknowledged": words["acknowledged"],
            "of these answered by a later life": repeats,
            "dropped: another epoch": words["dropped"],
        }

    def close(self):
        """End whatever still runs."""
        for worker in self.workers:
            worker.close()
        self.server.close()


class Pusher:
    """Measures pushes of a network of 1.69 million parameters to a server of its own."""

    SIDE = 1300

    def __init__(self, folder, mode):
        folder.mkdir()
        write_model(folder, workers=self.SIDE, slots=self.SIDE)
        self._folder = folder
        self._server = Server(folder, mode)
        self._sequence = 0
        try:
            self._server.start()
            self._client = Client(self._server.address, TOKEN, run="r1", retry_s=START_S)
            self._layout = self._client.prototxt().layout
        except BaseException:
            self._server.close()
            raise
        self._gradient = np.ones(self._layout.size, np.float32)
        self._out = np.empty_like(self._gradient)
        self.megabytes = self._gradient.nbytes / 1e6

    def push(self, count):
        """Push so often without asking for the weights; return the seconds of each."""
        status = self._client.status()
        taken = []
        for _ in range(count):
            self._sequence += 1
            push = Push(
                run="r1", worker="p", incarnation="i0", sequence=self._sequence,
                epoch=status["epoch"], version=status["version"], layout=self._layout.digest,
            )  # fmt: skip
            began = time.perf_counter()
            self._client.push(push, self._gradient)
            taken.append(time.perf_counter() - began)
        return taken

    def rate(self, *, workers, seconds):
        """Return the updates per second of so many worker processes."""
        pushing = [Worker(index, self._server.address, self._folder) for index in range(workers)]
        try:
            while any(len(worker.lines()) < 10 for worker in pushing):
                time.sleep(0.05)
            first, began = self._client.status()["version"], time.perf_counter()
            time.sleep(seconds)
            last, ended = self._client.status()["version"], time.perf_counter()
        finally:
            for worker in pushing:
                worker.close()
        return (last - first) / (ended - began)

    def close(self):
        self._client.close()
        self._server.close()


def _is_resumption(line):
    return line.startswith("resumed at version ")


def printed_gap(sentence):
    """Return the number of updates that a restart's sentence says are gone."""
    if "nothing acknowledged is lost" in sentence:
        return 0
    return int(re.search(r"; ([\d,]+) acknowledged update", sentence)[1].replace(",", ""))
