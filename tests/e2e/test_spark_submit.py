"""The product as its users start it: real Spark, real server, real Baristas, real Pong."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import caffe

ROOT = Path(__file__).resolve().parents[2]
# Small enough for seconds, real in every part.
SMALL = [
    "--num-envs", "2", "--warmup", "64", "--replay-capacity", "2000", "--batch-size", "8",
    "--evaluate", "0", "--seed", "1",
]  # fmt: skip
pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def newest_snapshot(run):
    folders = [path for path in (run / "snapshots").iterdir() if path.name.isdecimal()]
    return max(folders, key=lambda folder: int(folder.name))


def weights(snapshot):
    net = caffe.Net(
        str(snapshot / "train_val.prototxt"), caffe.TEST, weights=str(snapshot / "model.caffemodel")
    )
    return np.array(net.param_arena)


def test_pong_trains_for_two_rounds_and_a_resumed_run_goes_on(site):
    run = site.home / "first"
    code, out, err = site.run(
        site.command(*SMALL, "--rounds", "2", "--updates-per-round", "10", "--run-dir", str(run))
    )
    assert code == 0, err
    site.assert_nothing_left()

    # Gradients of both workers, each credited once; real frames; real steps.
    first = rows(run)
    assert [row["round"] for row in first] == [1, 2]
    assert first[-1]["version"] == 40
    workers = [w for row in first for w in row["workers"]]
    assert sum(w["applied"] for w in workers) == 40
    assert len({w["worker"] for w in workers if w["applied"]}) == 2
    assert all(w["replay_size"] >= 32 for w in workers)
    assert all(w["loss_mean"] > 0 for w in workers if w["applied"])

    # The weights moved, and the snapshot holds them.
    snapshot = newest_snapshot(run)
    manifest = json.loads((snapshot / "manifest.json").read_text())
    assert (snapshot.name, manifest["version"]) == ("40", 40)
    target = caffe.Net(
        str(snapshot / "train_val.prototxt"),
        caffe.TEST,
        weights=str(snapshot / "target.caffemodel"),
    )  # equal to the weights at version 0
    moved = np.abs(weights(snapshot) - target.param_arena)
    assert 0 < moved.max() < 0.1

    # A quiet console, logs that read well, a picture.
    assert len((out + err).splitlines()) < 25, out + err
    assert "WARN" not in out + err
    log = (site.logs / "barista.log").read_text()
    assert all(w["worker"] in log for w in workers)
    assert "Traceback" not in log
    assert (run / "curve.png").stat().st_size > 5000

    # A resumed run continues version, steps and so ε.
    second = site.home / "second"
    code, out, err = site.run(
        site.command("--resume", str(run), "--evaluate", "2", "--rounds", "1",
                     "--updates-per-round", "3", "--run-dir", str(second))
    )  # fmt: skip
    assert code == 0, err
    site.assert_nothing_left()
    assert json.loads((second / "config.json").read_text())["agent"]["batch_size"] == 8
    continued = rows(second)
    assert [row["version"] for row in continued] == [20, 40, 46]
    assert continued[-1]["steps"] > first[-1]["steps"]
    assert continued[-1]["epsilon"] < first[-1]["epsilon"] < 1
    assert "greedy" in out
    assert "random" in out


def test_the_commands_of_2015(site):
    for name in ("barista", "caffe", "param-server", "models", "ddq.py", "replay.py"):
        (site.home / name).symlink_to(ROOT / name)
    site.env["PYTHONPATH"] = f"{site.home}:{site.home}/caffe/python"
    server = site.start(["python", "param-server/server.py", "--port", "0"])
    file = site.wait_for(lambda: list(site.logs.glob("param-server-*.json")), server)[0]
    code, _, err = site.run(["python", "-m", "zipfile", "-c", "barista.zip", "barista"])
    assert code == 0, err

    command = ["spark-submit", "--master", "local", "--py-files", "barista.zip,replay.py", "ddq.py"]
    code, out, err = site.run([*command, *SMALL, "--rounds", "1", "--updates-per-round", "3"])
    assert code == 0, err
    address = json.loads(file.read_text())["address"]
    assert f"joined {address} at version 0" in out
    assert "local, 1 task slot" in out
    assert server.poll() is None
    run = next(folder for folder in site.logs.iterdir() if (folder / "metrics.jsonl").exists())
    assert rows(run)[-1]["version"] == 3

    server.send_signal(signal.SIGINT)
    assert server.wait(60) == 0
    assert not file.exists()
    assert "version 3" in server.out.read_text()
    site.assert_nothing_left()


def test_ctrl_c_keeps_a_snapshot_and_leaves_nothing(site):
    run = site.home / "run"
    process = site.start(site.command(*SMALL, "--minutes", "5", "--run-dir", str(run)))
    log = site.logs / "barista.log"
    site.wait_for(lambda: log.exists() and "partition" in log.read_text(), process)
    site.wait_for((run / "metrics.jsonl").exists, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, site.story(process)
    said = process.out.read_text() + process.err.read_text()
    assert "Traceback" not in said, said
    assert "py4j" not in said
    snapshot = newest_snapshot(run)
    assert json.loads((snapshot / "manifest.json").read_text())["version"] > 0
    assert np.isfinite(weights(snapshot)).all()
    site.assert_nothing_left()


def test_a_killed_driver_takes_everything_along_and_leaves_a_snapshot(site):
    run = site.home / "run"
    process = site.start(site.command(*SMALL, "--minutes", "5", "--run-dir", str(run)))
    site.wait_for((run / "metrics.jsonl").exists, process)
    # spark-submit's own JVM has these words too; the driver is Python.
    site.find(sys.executable, str(ROOT / "ddq.py")).kill()
    assert process.wait(60) != 0
    site.assert_nothing_left()
    assert json.loads((newest_snapshot(run) / "manifest.json").read_text())["version"] > 0


def test_ctrl_c_while_it_starts_leaves_nothing(site):
    run = site.home / "run"
    process = site.start(site.command(*SMALL, "--run-dir", str(run)))
    site.wait_for(lambda: site.find("param_server.cli"), process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, site.story(process)
    said = process.out.read_text() + process.err.read_text()
    assert "Traceback" not in said, said
    site.assert_nothing_left()
    assert not run.exists()


@pytest.mark.parametrize(
    ("options", "spark_options", "said"),
    [
        (["--workers", "3"], [], "--workers 3: local[2,4] has 2 task slots"),
        (
            [],
            ["--conf", "spark.task.resource.gpu.amount=1"],
            "spark.task.resource.gpu.amount is set",
        ),
    ],
)
def test_what_spark_would_wait_for_for_ever_is_one_line(site, options, spark_options, said):
    # spark-submit sends all that its Python says to stdout.
    code, out, err = site.run(site.command(*SMALL, *options, spark_options=spark_options))
    assert (code, (out + err).count("\n")) == (2, 1), out + err
    assert said in out
    site.assert_nothing_left()
