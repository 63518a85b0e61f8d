import logging
import subprocess
import sys

import pytest

import caffe
from caffe import modes


def test_the_modules_functions():
    caffe.set_mode_cpu()
    caffe.set_mode_gpu()
    caffe.set_multiprocess(True)
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    with pytest.raises(caffe.CaffeError, match="device 0"):
        caffe.set_device(0)


def test_layer_types_are_known_before_there_is_a_net():
    code = "import caffe; print(len(caffe.layer_type_list()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 55


def test_a_timer_counts_milliseconds():
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert 0 <= timer.ms < 1000


def test_the_number_of_solvers_is_remembered():
    caffe.set_solver_count(2)
    caffe.set_solver_rank(1)
    try:
        assert (caffe.solver_count(), caffe.solver_rank()) == (2, 1)
    finally:
        caffe.set_solver_count(1)
        caffe.set_solver_rank(0)


@pytest.mark.parametrize("call", [caffe.NCCL.new_uid, lambda: caffe.NCCL(None, b"")])
def test_nccl_is_refused(call):
    with pytest.raises(caffe.CaffeError, match="NCCL is not available"):
        call()


@pytest.fixture
def logger(monkeypatch):
    """Return a logger in the place of the engine's."""
    assert modes._logger is logging.getLogger("caffe")
    logger = logging.Logger("alone")  # noqa: LOG001  # in no tree, so pytest leaves it alone
    monkeypatch.setattr(modes, "_logger", logger)
    return logger


def test_log_writes_to_stderr(logger, capsys):
    caffe.log("hello")
    assert capsys.readouterr().err == "hello\n"


def test_log_leaves_the_output_to_handlers_that_are_there(logger, capsys):
    heard = []
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    caffe.log("hello %s")
    assert heard == ["hello %s"]
    assert not capsys.readouterr().err


def test_init_log_shows_messages_from_a_level_up(logger, capsys):
    caffe.init_log(1)
    caffe.log("quiet")
    logger.warning("loud")
    assert capsys.readouterr().err == "loud\n"


def test_init_log_twice_shows_messages_once(logger, capsys):
    caffe.init_log(0, True)
    caffe.init_log()
    caffe.log("once")
    assert capsys.readouterr().err == "once\n"
    caffe.init_log(0, False)
    assert logger.handlers == []
    with pytest.raises(caffe.CaffeError, match="0 to 3"):
        caffe.init_log(4)


def test_the_types_of_layers_are_listed():
    assert {"Convolution", "InnerProduct", "Python"} <= set(caffe.layer_type_list())
