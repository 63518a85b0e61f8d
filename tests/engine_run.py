"""Updates by the server's engine and a worker's learner: `python -m tests.engine_run FOLDER`.

A process of its own, so that DDQ_CAFFE can choose the engine; what came of it is FOLDER/run.npz.
"""

import sys
from pathlib import Path

import numpy as np
from param_server.engine import MODEL, TARGET, Engine

import caffe
from barista.config import AgentConfig
from barista.learner import Learner, load_nets, q_values
from replay import Batch
from tests import tiny

B, UPDATES = 16, 20
# One weight for two layers, a bias that does not learn, statistics of its own.
NET = """
layer { name: "state" type: "Input" top: "state"
        input_param { shape { dim: 16 dim: 1 dim: 5 dim: 5 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "state" top: "fc1" param { name: "bottleneck" }
        param { lr_mult: 0 }
        inner_product_param { num_output: 25 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "norm" type: "BatchNorm" bottom: "fc1" top: "norm" }
layer { name: "fc2" type: "InnerProduct" bottom: "norm" top: "fc2" param { name: "bottleneck" }
        inner_product_param { num_output: 25 weight_filler { type: "xavier" } } }
layer { name: "Q_out" type: "InnerProduct" bottom: "fc2" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def batches(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield Batch(
            states=rng.integers(256, size=(B, 1, 5, 5), dtype=np.uint8),
            actions=rng.integers(3, size=B),
            rewards=rng.normal(size=B).astype(np.float32),
            discounts=rng.choice([0.0, 0.9], size=B).astype(np.float32),
            next_states=rng.integers(256, size=(B, 1, 5, 5), dtype=np.uint8),
            weights=np.ones(B, np.float32),
            ids=np.arange(B),
        )


def run(folder):
    """Train, take a snapshot, go on from it in another engine, go back to the beginning."""
    net, solver = folder / "train_val.prototxt", folder / "solver.prototxt"
    net.write_text(NET)
    solver.write_text(tiny.SOLVER.format(net=net))
    for name in ("work", "other", "snapshot"):
        (folder / name).mkdir()
    engine = Engine(solver, roots=[], work=folder / "work", seed=4)
    nets = load_nets(str(net), batch_size=B, num_envs=2)
    learner = Learner(nets, AgentConfig(), 3)
    assert learner.layout == engine.layout
    weights, target = engine.weights, engine.weights.copy()
    learner.set_target_weights(target)
    history, gradients = [weights.copy()], []
    for batch in batches(UPDATES):
        learner.set_weights(weights)
        learner.gradient(batch)
        gradients.append(learner.flat_gradient.copy())
        engine.apply(gradients[-1])
        history.append(weights.copy())  # the array that the store holds

    engine.save(folder / "snapshot")
    engine.finish(folder / "snapshot", target)
    other = Engine(solver, roots=[], work=folder / "other", weights=folder / "snapshot" / MODEL)
    begun = other.weights.copy()
    other.restore(folder / "snapshot")
    for gradient in gradients:
        other.apply(gradient)
        engine.apply(gradient)
    assert np.array_equal(other.weights, engine.weights)
    engine.reset()
    played = caffe.Net(str(net), caffe.TEST, weights=str(folder / "snapshot" / TARGET))
    states = next(batches(1)).states
    return {
        "history": history,
        "gradients": gradients,
        "weights_file": begun,
        "resumed": other.weights,
        "reset": engine.weights,
        "target": other.read_target(folder / "snapshot"),
        "q_values": q_values(nets.act, states, 3),
        "q_values_of_target": q_values(played, states, 3),
        "lr": engine.lr,
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.savez(folder / "run.npz", engine=caffe.__file__, **run(folder))
