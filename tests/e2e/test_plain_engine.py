"""The whole product on a plain pycaffe: DDQ_CAFFE, real Spark, real server, real Baristas.

The plain one is a stand-in (tests/plain_pycaffe): our engine, with every name hidden that a real
pycaffe lacks, in a process that aborts where a real one would.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import caffe

ROOT = Path(__file__).resolve().parents[2]
PLAIN = ROOT / "tests/plain_pycaffe"
PLAIN_FILE = PLAIN / "caffe/__init__.py"
SMALL = [
    "--game", "ddq/Snake-v0", "--num-envs", "2", "--warmup", "64", "--replay-capacity", "2000",
    "--batch-size", "8", "--evaluate", "2", "--seed", "1",
]  # fmt: skip
pytestmark = [pytest.mark.spark, pytest.mark.timeout(200)]


def weights(snapshot, name):
    net = caffe.Net(str(snapshot / "train_val.prototxt"), caffe.TEST, weights=str(snapshot / name))
    return np.array(net.param_arena)


def test_snake_trains_is_evaluated_and_played(site):
    site.env["DDQ_CAFFE"] = os.path.relpath(PLAIN, site.home)  # Baristas run in other folders
    run = site.home / "run"
    code, out, err = site.run(
        site.command(*SMALL, "--rounds", "2", "--updates-per-round", "10", "--run-dir", str(run))
    )
    assert code == 0, out + err
    site.assert_nothing_left()

    # Everyone says whose engine it was, and none of glog's lines is seen.
    assert f"engine   {PLAIN_FILE}" in out
    assert json.loads((run / "config.json").read_text())["engine"] == str(PLAIN_FILE)
    log = (site.logs / "barista.log").read_text()
    assert log.count(f"engine {PLAIN_FILE}") == 2
    assert f"the engine is {PLAIN_FILE}" in (site.logs / "param-server.log").read_text()
    assert "Traceback" not in log
    assert not [name for name in ("Initializing", "WARN") if name in out + err + log]

    # Both workers have trained it, and our own engine reads what was written.
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["version"] for row in rows] == [20, 40]
    assert all(row["loss"] > 0 for row in rows)
    snapshot = run / "snapshots/40"
    moved = np.abs(weights(snapshot, "model.caffemodel") - weights(snapshot, "target.caffemodel"))
    assert 0 < moved.max() < 0.1

    code, out, err = site.run(["python", "-m", "barista.play", str(run), "--episodes", "2"])
    assert (code, err) == (0, "")
    assert out.startswith("ddq/Snake-v0, version 40: 2 episodes")


def test_a_folder_without_a_caffe_package_is_one_line(site):
    site.env["DDQ_CAFFE"] = str(site.home)
    code, out, err = site.run(site.command(*SMALL, "--rounds", "1"))
    assert (code, out + err) == (2, f"DDQ_CAFFE={site.home}: this folder holds no caffe package\n")
    site.assert_nothing_left()
