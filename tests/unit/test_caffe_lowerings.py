import pytest
import torch
from caffe.lowerings import CONTIGUOUS, GEMM, LAST, Windows

from caffe import lowerings

WINDOWS = [
    Windows((3, 3), (1, 1), (0, 0), (1, 1)),
    Windows((3, 2), (2, 1), (1, 0), (1, 1)),
    Windows((2, 3), (2, 3), (0, 2), (1, 1)),  # windows that leave pixels out
    Windows((1, 1), (2, 2), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("lowering", [CONTIGUOUS, LAST, GEMM])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_all_lowerings_are_autograds_convolution(windows, lowering, dtype):
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, bias = values(2, 3, 8, 9), values(4, 3, *windows.kernel), values(4)
    for tensor in (x, weight, bias):
        tensor.requires_grad_(True)
    expected = torch.conv2d(x, weight, bias, windows.stride, windows.pad)
    dy = values(*expected.shape)
    expected.backward(dy)

    given, w, b, diff = (t.detach().to(dtype) for t in (x, weight, bias, dy))
    given, diff = lowerings.arrange(given, lowering), lowerings.arrange(diff, lowering)
    y = lowerings.forward(given, w, b, windows, lowering)
    got = lowerings.backward(diff, given, w, windows, lowering, wanted=[True, True, True])
    tolerance = {"rtol": 0, "atol": 1e-10 if dtype is torch.float64 else 0.2}
    assert lowerings.arrange(y, lowering) is y
    torch.testing.assert_close(y.double(), expected.detach(), **tolerance)
    for one, tensor in zip(got, (x, weight, bias), strict=True):
        torch.testing.assert_close(one.double(), tensor.grad, **tolerance)


@pytest.mark.parametrize("lowering", [CONTIGUOUS, LAST, GEMM])
def test_only_what_is_wanted_is_computed(lowering):
    x, dy = (lowerings.arrange(torch.ones(1, 2, n, n), lowering) for n in (4, 3))
    weight = torch.ones(2, 2, 2, 2)
    windows = Windows((2, 2), (1, 1), (0, 0), (1, 1))
    for k in range(3):
        wanted = [i == k for i in range(3)]
        result = lowerings.backward(dy, x, weight, windows, lowering, wanted=wanted)
        assert [gradient is not None for gradient in result] == wanted


@pytest.mark.parametrize(
    ("windows", "names"),
    [
        (Windows((3, 3), (1, 1), (0, 0), (1, 1)), (CONTIGUOUS, LAST, GEMM)),
        (Windows((3, 3), (1, 1), (0, 0), (2, 1)), (CONTIGUOUS, LAST)),
        (Windows((3, 3), (1, 1), (0, 0), (1, 1), group=2), (CONTIGUOUS, LAST)),
        (Windows((3, 3), (1, 1), (0, 0), (1, 1), transposed=True), (CONTIGUOUS, LAST)),
        (Windows((3,), (1,), (0,), (1,)), (CONTIGUOUS,)),
    ],
)
def test_what_can_compute_what(windows, names):
    assert windows.lowerings() == names
