"""The driver's options and what it refuses before it starts anything."""

from pathlib import Path

import psutil
import pytest

import ddq
from barista.games.models import q_network
from barista.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    monkeypatch.setattr(ddq.Interrupts, "install", lambda _: None)
    return tmp_path


def refused(capsys, arguments):
    """Run the driver; return its only line, after checking that it left nothing running."""
    children = set(psutil.Process().children(recursive=True))
    try:
        code = ddq.main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1), said.err
    assert set(psutil.Process().children(recursive=True)) <= children
    return said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--game", "ALE/Pnog-v5"], "did you mean ALE/Pong-v5"),
        (["--game", "Pendulum-v1"], "Pendulum-v1"),
        (["--workers", "0"], "--workers: a whole number above 0"),
        (["--rounds", "-1"], "--rounds"),
        (["--minutes", "nan"], "--minutes"),
        (["--evaluate", "-1"], "--evaluate must be at least 0"),
        (["--evaluate-every", "-1"], "--evaluate-every must be at least 0"),
        (["--evaluate-every", "1", "--evaluate", "0"], "--evaluate-every needs episodes"),
        (["--wire-dtype", "float16"], "--wire-dtype must be float32 or bfloat16"),
        (["--staleness", "ssp"], "--staleness: 'ssp' is not of the form ssp:S"),
        (["--tls-cert", "nowhere.pem"], "--tls-cert nowhere.pem: No such file"),
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--gamma", "1.5"], "--gamma must be between 0 and 1"),
        (["--device", "tpu"], "--device"),
        (["--model", "nowhere.prototxt"], "--model nowhere.prototxt: No such file"),
        (["--solver", "nowhere.prototxt"], "--solver nowhere.prototxt: No such file"),
        (["--weights", "nowhere.caffemodel"], "--weights nowhere.caffemodel"),
        (["--resume", "nowhere"], "--resume nowhere: there is no such folder"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, said):
    assert said in refused(capsys, arguments)


def test_a_model_of_another_game_is_one_line(capsys, home):
    (home / "net.prototxt").write_text(q_network("nature", 4, 4, 84, 84))
    line = refused(capsys, ["--model", str(home / "net.prototxt")])
    assert "4 outputs, but ALE/Pong-v5 has 6 actions" in line


def test_a_malformed_model_names_file_and_place(capsys, home):
    (home / "net.prototxt").write_text("layer { name: }")
    line = refused(capsys, ["--model", str(home / "net.prototxt")])
    assert "net.prototxt" in line
    assert "1:15" in line


def test_a_used_run_folder_is_one_line(capsys, home):
    RunFolder.create(home / "run").append({})
    assert "is used already" in refused(capsys, ["--run-dir", str(home / "run")])


def test_logs_that_cannot_be_made_are_one_line(capsys, home, monkeypatch):
    (home / "file").touch()
    monkeypatch.setenv("DDQ_ROOT", str(home / "file"))
    assert "cannot write" in refused(capsys, [])


def test_weights_and_resume_exclude_each_other(capsys, home):
    folder = RunFolder.create(home / "run")
    (home / "w.caffemodel").touch()
    arguments = ["--weights", str(home / "w.caffemodel"), "--resume", str(folder.path)]
    assert "exclude each other" in refused(capsys, arguments)


def test_a_resumed_run_keeps_its_own_model_and_settings(home):
    folder = RunFolder.create(home / "run")
    options = {"staleness": "ssp:2", "durability": "acknowledged", "keep": 9}
    folder.write_config({"agent": {"game": "ddq/Snake-v0", "n_step": 5}, "options": options})
    (folder.path / "train_val.prototxt").write_text(q_network("snake", 4, 2, 16, 16))
    (folder.path / "solver.prototxt").write_text('type: "SGD" base_lr: 0.5')
    given = ddq.options.driver_parser().parse_args(
        ["--resume", str(folder.path), "--run-dir", str(home / "b"), "--durability", "interval"]
    )
    job = ddq._prepare(given, ddq.Interrupts())
    told = ddq._wish(job, "127.0.0.1").arguments
    assert told[told.index("--staleness") + 1] == "ssp:2"
    assert told[told.index("--durability") + 1] == "interval"
    assert "--keep" not in told
    assert (job.config.game, job.config.n_step) == ("ddq/Snake-v0", 5)
    assert 'type: "SGD"' in job.solver.read_text()


class Context:
    master = "local[2]"


class Server:
    address = "127.0.0.1:5500"

    def __init__(self, version):
        self.version = version

    def status(self):
        return {"version": self.version}


def test_a_chain_of_runs_has_one_curve_without_what_was_undone(home):
    folder = RunFolder.create(home / "run")
    folder.write_config({"agent": {"game": "ddq/Snake-v0"}})
    for name in ("train_val.prototxt", "solver.prototxt"):
        (folder.path / name).write_text((ROOT / "models/snake" / name).read_text())
    rows = [{"round": n, "version": 100 * n, "steps": n} for n in (1, 2, 3)]
    for row in rows:
        folder.append(row)
    given = ddq.options.driver_parser().parse_args(
        ["--resume", str(folder.path), "--run-dir", str(home / "b")]
    )
    job = ddq._prepare(given, ddq.Interrupts())
    # The newest snapshot is of version 250: round 3 never happened.
    assert ddq._begin_folder(job, job.config, Context(), Server(250)) == 3
    assert job.folder.metrics() == rows[:2]
    assert job.folder.config()["agent"]["game"] == "ddq/Snake-v0"


def test_a_log_that_has_grown_too_long_is_put_aside(home, monkeypatch):
    monkeypatch.setattr(ddq, "LOG_LIMIT_BYTES", 3)
    log = home / "barista.log"
    log.write_text("long")
    ddq._begin_log(log)
    assert not log.exists()
    assert (home / "barista.log.1").read_text() == "long"


@pytest.mark.parametrize("option", ["--weights", "--resume", "--server-host", "--server-port"])
def test_what_is_for_an_own_server_excludes_a_named_one(capsys, home, option):
    (home / "w").touch()
    value = {"--weights": str(home / "w"), "--server-port": "5"}.get(option, "x")
    if option == "--resume":
        folder = RunFolder.create(home / "run")
        folder.write_config({})
        value = str(folder.path)
    line = refused(capsys, ["--server", "127.0.0.1:9", option, value])
    assert f"--server and {option} exclude each other" in line


def test_every_option_is_explained():
    for action in ddq.options.driver_parser()._actions:
        assert action.help, action.dest
