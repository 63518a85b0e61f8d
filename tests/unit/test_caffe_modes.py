import pytest

import caffe


def test_the_modules_functions():
    caffe.set_mode_cpu()
    caffe.set_mode_gpu()
    caffe.init_log(0)
    caffe.set_multiprocess(True)
    assert (caffe.solver_count(), caffe.solver_rank(), caffe.has_nccl()) == (1, 0, False)
    assert (caffe.TRAIN, caffe.TEST) == (0, 1)
    with pytest.raises(caffe.CaffeError, match="device 0"):
        caffe.set_device(0)


def test_a_timer_counts_milliseconds():
    timer = caffe.Timer()
    timer.start()
    timer.stop()
    assert 0 <= timer.ms < 1000


def test_log_writes_to_stderr(capsys):
    caffe.log("hello")
    assert capsys.readouterr().err == "hello\n"
