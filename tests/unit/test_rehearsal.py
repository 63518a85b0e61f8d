"""What a plain Caffe would abort on is found out by a child, and said in one line."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from param_server import rehearsal
from param_server.rehearsal import EngineAbortError, rehearse

import caffe
from tests import tiny

PLAIN = Path(__file__).resolve().parents[1] / "plain_pycaffe"


@pytest.fixture
def files(tmp_path):
    return tiny.write_model(tmp_path)


@pytest.fixture
def plain(monkeypatch):
    """An engine without errors of its own, here and in children."""
    monkeypatch.setattr(rehearsal, "caffe", SimpleNamespace())
    monkeypatch.setenv("DDQ_CAFFE", str(PLAIN))
    monkeypatch.setenv("GLOG_minloglevel", "0")


def child(monkeypatch, returncode, stderr):
    done = subprocess.CompletedProcess([], returncode, "", stderr)
    monkeypatch.setattr(rehearsal.subprocess, "run", lambda *_, **__: done)


def test_our_own_engine_needs_none(monkeypatch):
    monkeypatch.setattr(rehearsal.subprocess, "run", None)
    rehearse(net="nowhere.prototxt")


def test_good_files_pass(plain, files, tmp_path):
    net, solver = files
    caffe.Net(net, caffe.TRAIN).save(str(tmp_path / "w.caffemodel"))
    rehearse(solver=solver, weights=str(tmp_path / "w.caffemodel"))
    rehearse(net=net, weights=str(tmp_path / "w.caffemodel"))


def test_a_bad_net_is_one_line(plain, files):
    net, solver = files
    Path(net).write_text(tiny.MODEL.replace("InnerProduct", "OuterProduct"))
    with pytest.raises(EngineAbortError, match=r"^Caffe gives up: Check failed: .*OuterProduct"):
        rehearse(solver=solver)


def test_weights_that_do_not_fit_are_one_line(plain, files, tmp_path):
    net, _ = files
    caffe.Net(net, caffe.TRAIN).save(str(tmp_path / "w.caffemodel"))
    Path(net).write_text(tiny.MODEL.replace("num_output: 32", "num_output: 31"))
    with pytest.raises(EngineAbortError, match="fc1"):
        rehearse(net=net, weights=str(tmp_path / "w.caffemodel"))


def test_a_state_that_does_not_fit_is_one_line(plain, files, tmp_path):
    (tmp_path / "s.solverstate").write_bytes(b"\xff")
    with pytest.raises(EngineAbortError, match=r"s\.solverstate"):
        rehearse(solver=files[1], state=str(tmp_path / "s.solverstate"))


def test_a_device_that_it_was_not_built_for_is_one_line(plain):
    with pytest.raises(EngineAbortError, match="CPU-only"):
        rehearse(device=0)


def test_exceptions_are_left_to_the_caller(plain):
    rehearse(net="nowhere.prototxt")  # pycaffe raises RuntimeError


def test_a_long_reason_is_cut(plain, monkeypatch):
    child(
        monkeypatch, -6, f"F20221122 12:00:00.1 9 a.cpp:1] Check failed: {'x' * 999}\n    @ 0x1\n"
    )
    with pytest.raises(EngineAbortError) as caught:
        rehearse(device=0)
    assert 300 < len(str(caught.value)) < 330


def test_an_end_without_a_word_names_the_signal(plain, monkeypatch):
    child(monkeypatch, -9, "")
    with pytest.raises(EngineAbortError, match="ended by signal 9"):
        rehearse(device=0)
