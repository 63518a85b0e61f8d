import pytest
import torch

import caffe
from caffe import device


def test_without_a_gpu_a_device_is_refused_and_the_mode_stays(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(caffe.CaffeError, match=r"device 0 is not available: PyTorch sees 0 GPUs"):
        caffe.set_device(0)
    caffe.set_mode_gpu()
    assert device.current() == device.CPU


def test_a_gpu_is_chosen_by_mode_and_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device._Choice, "gpu", 0)
    try:
        caffe.set_device(1)
        assert device.current() == device.CPU
        caffe.set_mode_gpu()
        assert device.current() == torch.device("cuda", 1)
        caffe.set_device(0)
        assert device.current() == torch.device("cuda", 0)
        with pytest.raises(caffe.CaffeError, match="device -1"):
            caffe.set_device(-1)
    finally:
        caffe.set_mode_cpu()
    assert device.current() == device.CPU


def test_new_tensors_lie_where_they_should():
    with device.tensors_on(torch.device("meta")):
        assert torch.zeros(1).device.type == "meta"
    with device.tensors_on(device.CPU):
        assert torch.zeros(1).device.type == "cpu"
