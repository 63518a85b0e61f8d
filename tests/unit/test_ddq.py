"""The driver's options and what it refuses before it starts anything."""

from pathlib import Path

import psutil
import pytest

import ddq
from barista.driver.run_folder import RunFolder
from barista.games.models import q_network

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
        (["--rounds", "0"], "--rounds 0 only evaluates, and needs --resume"),
        (["--serial", "--doctor"], "--doctor looks at Spark's executors: drop --serial"),
        (["--serial", "--server", "a:1"], "--server and --serial exclude each other"),
        (["--serial", "--tls-cert", "a.pem"], "--tls-cert and --serial exclude each other"),
        (["--agent", "a3c"], "--agent must be ddq, dqn, rainbow or apex"),
        (["--protocol", "gym"], "--protocol must be ddq, nature or ale"),
        (["--quantiles", "5", "--loss", "squared"], "drop --loss squared"),
        (["--value-rescaling"], "add --no-reward-clip"),
        (["--replay-capacity", "90"], "--replay-capacity must be at least 96: 1 workers × 32"),
        (["--model", "models/deepq/one_net.prototxt"], "learns by plain one-step Q-learning"),
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
