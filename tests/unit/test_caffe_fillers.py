import pytest
import torch
from caffe.errors import CaffeError
from caffe.fillers import fill
from caffe.proto.caffe_pb2 import FillerParameter


def filled(shape, **settings):
    torch.manual_seed(0)
    values = torch.empty(shape)
    fill(values, FillerParameter(**settings))
    return values


def test_constant():
    assert (filled((3,), type="constant", value=2) == 2).all()


def test_xavier_stays_within_its_bound():
    values = filled((50, 12), type="xavier")
    assert values.abs().max() <= 0.5
    assert values.abs().max() > 0.45


def test_msra_has_its_deviation():
    assert filled((400, 50), type="msra").std() == pytest.approx(0.2, rel=0.05)


def test_unitball_rows_sum_to_one():
    torch.testing.assert_close(filled((4, 7), type="positive_unitball").sum(1), torch.ones(4))


def test_bilinear_is_a_tent():
    values = filled((1, 1, 4, 4), type="bilinear")[0, 0]
    torch.testing.assert_close(values[0], torch.tensor([0.0625, 0.1875, 0.1875, 0.0625]))


@pytest.mark.parametrize(
    "settings",
    [
        {"type": "nope"},
        {"type": "uniform", "min": 1, "max": 0},
        {"type": "gaussian", "std": 0},
        {"type": "bilinear"},
        {"type": "uniform", "min": -3e38, "max": 3e38},
        {"type": "uniform", "max": float("inf")},
        {"type": "uniform", "min": float("nan")},
        {"type": "uniform", "sparse": 1},
        {"type": "gaussian", "sparse": 3},
        {"type": "gaussian", "sparse": -2},
    ],
)
def test_unfit_settings_are_refused(settings):
    with pytest.raises(CaffeError, match=settings["type"]):
        filled((2, 2), **settings)


@pytest.mark.parametrize(
    "settings",
    [{"type": kind} for kind in ("xavier", "msra", "positive_unitball")]
    + [{"type": "gaussian", "sparse": 1}],
)
def test_what_counts_rows_cannot_fill_a_scalar(settings):
    with pytest.raises(CaffeError, match="scalar"):
        filled((), **settings)


def test_there_must_be_something_to_fill():
    with pytest.raises(CaffeError, match=r"constant.*\[2, 0\]"):
        filled((2, 0), type="constant")


@pytest.mark.parametrize(("norm", "fan"), [("FAN_IN", 600), ("FAN_OUT", 480), ("AVERAGE", 540)])
@pytest.mark.parametrize(("kind", "variance"), [("xavier", 1), ("msra", 2)])
def test_variance_norm_chooses_the_fan(kind, variance, norm, fan):
    values = filled((40, 50, 3, 4), type=kind, variance_norm=norm)
    assert values.var() == pytest.approx(variance / fan, rel=0.04)


def test_sparse_gaussians_are_mostly_zero():
    zeros = (filled((100, 100), type="gaussian", sparse=5) == 0).float().mean()
    assert zeros == pytest.approx(0.95, abs=0.02)
