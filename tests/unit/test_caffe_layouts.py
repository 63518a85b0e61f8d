import pytest
import torch

from caffe import layouts

SHAPES = [(2, 3, 4, 5), (1, 1, 3, 3), (3, 4, 1, 1), (2, 1, 3, 2), (5, 7, 2, 1)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.uint8]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_stay_in_their_places(shape, dtype):
    x = torch.arange(torch.Size(shape).numel()).remainder(200).to(dtype).view(shape)
    last = layouts.to_channels_last(x)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, x)
    back = layouts.to_contiguous(last)
    assert back.is_contiguous()
    assert torch.equal(back, x)


def test_what_lies_right_is_not_copied():
    x = torch.zeros(2, 3, 4, 5)
    assert layouts.to_contiguous(x) is x
    last = layouts.to_channels_last(x)
    assert layouts.to_channels_last(last) is last
    assert layouts.like(x, x + 1) is x


def test_what_lies_otherwise_is_copied():
    x = torch.arange(120.0).view(2, 3, 4, 5).transpose(2, 3)
    assert torch.equal(layouts.to_channels_last(x), x)
    assert layouts.to_channels_last(x).is_contiguous(memory_format=torch.channels_last)
    assert layouts.to_contiguous(x).is_contiguous()
    volume = torch.zeros(1, 2, 3, 4, 5).transpose(1, 2)
    assert layouts.to_contiguous(volume).is_contiguous()


def test_a_layout_can_be_that_of_another():
    x = torch.arange(120.0).view(2, 3, 4, 5)
    last = layouts.to_channels_last(x + 1)
    assert layouts.like(x, last).stride() == last.stride()
    assert layouts.like(last, x).stride() == x.stride()
