"""What a run is: from options, defaults and the run that it goes on from."""

from pathlib import Path

import pytest

from barista.driver import command_line, job
from barista.driver.interrupts import Interrupts
from barista.driver.run_folder import RunFolder
from barista.games.models import one_net, q_network

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    return tmp_path


def prepare(*arguments):
    return job.prepare(command_line.driver_parser().parse_args(arguments), Interrupts())


def value(arguments, option):
    return arguments[arguments.index(option) + 1]


class Server:
    address = "127.0.0.1:5500"
    parameters = 1234

    def status(self):
        return {"version": 250}

    def describe(self):
        return "some server"


def test_a_resumed_run_keeps_its_own_model_and_settings(home):
    folder = RunFolder.create(home / "run")
    asked = {"staleness": "ssp:2", "durability": "acknowledged", "keep": 9}
    folder.write_config({"agent": {"game": "ddq/Snake-v0", "n_step": 5}, "options": asked})
    (folder.path / "train_val.prototxt").write_text(q_network("snake", 4, 2, 16, 16))
    (folder.path / "solver.prototxt").write_text('type: "SGD" base_lr: 0.5')
    resumed = prepare(
        "--resume", str(folder.path), "--run-dir", str(home / "b"), "--durability", "interval"
    )
    told = job.server_arguments(resumed)
    assert value(told, "--staleness") == "ssp:2"
    assert value(told, "--durability") == "interval"
    assert "--keep" not in told
    assert (resumed.config.game, resumed.config.n_step) == ("ddq/Snake-v0", 5)
    assert 'type: "SGD"' in resumed.solver.read_text()


@pytest.mark.parametrize(
    ("typed", "exchange"),
    [([], "spark"), (["--exchange", "server"], "server"), (["--serial"], None)],
)
def test_a_resumed_run_exchanges_as_before(home, typed, exchange):
    folder = RunFolder.create(home / "run")
    folder.write_config({"agent": {"game": "ddq/Snake-v0"}, "options": {"exchange": "spark"}})
    for name in ("train_val.prototxt", "solver.prototxt"):
        (folder.path / name).write_text((ROOT / "models/snake" / name).read_text())
    resumed = prepare("--resume", str(folder.path), "--run-dir", str(home / "b"), *typed)
    assert resumed.given.exchange == exchange


def test_a_chain_of_runs_has_one_curve_without_what_was_undone(home):
    folder = RunFolder.create(home / "run")
    folder.write_config({"agent": {"game": "ddq/Snake-v0"}})
    for name in ("train_val.prototxt", "solver.prototxt"):
        (folder.path / name).write_text((ROOT / "models/snake" / name).read_text())
    rows = [{"round": n, "version": 100 * n, "steps": n} for n in (1, 2, 3)]
    for row in rows:
        folder.append(row)
    second = prepare("--resume", str(folder.path), "--run-dir", str(home / "b"))
    # The newest snapshot is of version 250: round 3 never happened.
    assert job.begin_folder(second, second.config, master="local[2]", server=Server()) == 3
    assert second.folder.metrics() == rows[:2]
    assert second.folder.config()["agent"]["game"] == "ddq/Snake-v0"


def test_a_log_that_has_grown_too_long_is_put_aside(home, monkeypatch):
    monkeypatch.setattr(job, "LOG_LIMIT_BYTES", 3)
    log = home / "logs" / "barista.log"
    log.parent.mkdir()
    log.write_text("long")
    prepare("--game", "ddq/Snake-v0")
    assert not log.exists()
    assert log.with_suffix(".log.1").read_text() == "long"


@pytest.mark.parametrize(
    ("agent", "outputs", "said"),
    [
        ("dqn", 4, "agent    DQN, batch 32"),
        ("rainbow", 4 * 51, "dueling double QR-DQN of 51 quantiles, 3-step, prioritised"),
        ("apex", 4, "dueling double DQN, 3-step, prioritised"),
    ],
)
def test_a_preset_brings_its_network(agent, outputs, said):
    made = prepare("--game", "ddq/Snake-v0", "--agent", agent)
    assert f"num_output: {outputs}\n" in made.files.net
    plan = job.plan(made, made.config, where="here", server=Server())
    assert said in plan
    assert "1,234 parameters" in plan
    assert ("0.4 down to 0.0007" in plan) == (agent == "apex")


def test_what_is_typed_beside_a_preset_wins():
    made = prepare("--game", "ddq/Snake-v0", "--agent", "rainbow", "--quantiles", "7")
    assert (made.config.quantiles, made.config.prioritised) == (7, True)


def test_the_form_of_2015_is_taken(home):
    (home / "net.prototxt").write_text(one_net("snake", 4, (2, 16, 16)))
    options = ["--game", "ddq/Snake-v0", "--model", str(home / "net.prototxt")]
    assert "non_terminal" in prepare(*options, "--agent", "dqn").files.net
