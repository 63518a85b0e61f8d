"""Lives of a server without its sockets: engine, store, snapshots and journal, killed and revived.

The net is a handful of numbers that begin at 0, and the rule subtracts each gradient.  What pushes
add up to is known, so the model tells which of them it holds.
"""

import numpy as np
from param_server.durability import Durability
from param_server.engine import Engine
from param_server.journal import Journal
from param_server.judgement import Rules
from param_server.outliers import Outliers
from param_server.progress import Progress
from param_server.recovery import fill, new_epoch, prune_journal, restore
from param_server.snapshot import Folder, find
from param_server.staleness import Policy
from param_server.store import Store
from param_server.wire import Push

NET = """
name: "slots"
layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 1 dim: %d } } }
layer { name: "Q_out" type: "InnerProduct" bottom: "state" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: %d bias_term: false } }
"""
SOLVER = 'net: "%s" type: "SGD" base_lr: 1 lr_policy: "fixed" %s'


def write_model(folder, *, workers=2, slots=2, more=""):
    """Write a net of `workers` rows of `slots` numbers, and its solver; return the solver's path.

    The rule's factor is 1, a power of two, and there is no momentum: sums of whole numbers are
    exact, whatever their order.
    """
    net, solver = folder / "train_val.prototxt", folder / "solver.prototxt"
    net.write_text(NET % (slots, workers))
    solver.write_text(SOLVER % (net, more))
    return solver


class Life:
    """One life of a server whose snapshots are in ``folder/snapshots``."""

    def __init__(
        self, folder, *, resume=None, journalled=True, epoch=None, sequences=None, **options
    ):
        solver = folder / "solver.prototxt"
        self.folder = Folder(folder / "snapshots", keep=options.pop("keep", 5))
        self.folder.prepare()
        work = self.folder.path / ".tmp-engine"
        work.mkdir()
        self.engine = Engine(solver, roots=[], work=work, **options)
        self.journal = None
        if journalled:
            self.journal = Journal(self.folder.path, lambda: (self.store.epoch, self.store.changes))
        self.store = Store(
            self.engine.layout, self.engine.weights, apply=self.engine.apply,
            reset=self.engine.reset, epoch=epoch or new_epoch(0), clock=lambda: 0.0,
            target_period=3, journal=self.journal,
            rules=Rules(Policy(), Outliers(0), self.engine.iter_size),
        )  # fmt: skip
        self.resumed = None
        if resume is not None:
            self.resumed = restore(self.engine, self.store, find(resume), "")
            if self.journal:
                self.journal.follow(self.resumed.end)
        self.sequences = dict(sequences or {})  # workers outlive their server
        self.snapshot()
        self.durability = Durability(Progress(self.folder.path), self.journal)
        self.durability.acknowledge(self.store)

    def snapshot(self):
        written = self.folder.write(
            lambda path: fill(path, self.engine, self.store, seed=None, journal=self.journal)
        )
        prune_journal(self.folder.path)
        return written

    def push(self, worker=0, *, sequence=None, acknowledge=True, **fields):
        """Push -1 at a worker's place for this sequence, so that the model grows by 1 there."""
        sequence = sequence or self.sequences.get(worker, 0) + 1
        gradient = np.zeros(self.engine.layout.size, np.float32)
        slots = self.engine.layout.entries[0].shape[1]
        gradient[worker * slots + (sequence - 1) % slots] = -1.0
        return self.push_gradient(gradient, worker, sequence, acknowledge=acknowledge, **fields)

    def push_gradient(self, gradient, worker, sequence, *, acknowledge=True, **fields):
        self.sequences[worker] = sequence
        push = Push(
            run="r1", worker=f"w{worker}", incarnation="i0", sequence=sequence, steps=4,
            **{"epoch": self.store.epoch, "version": self.store.version,
               "layout": self.engine.layout.digest, **fields},
        )  # fmt: skip
        answer = self.store.apply(push, gradient)
        if acknowledge:
            self.durability.acknowledge(self.store)
        return answer

    def clear(self):
        self.store.clear(new_epoch(self.store.epoch))
        self.durability.acknowledge(self.store)

    def weights(self):
        return self.store.read(out=np.empty(self.engine.layout.size, np.float32)).weights.tolist()

    def kill(self):
        """Leave everything as it is."""
        self.folder.close()
        self.durability.close()
