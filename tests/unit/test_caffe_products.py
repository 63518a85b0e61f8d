import numpy as np
import pytest
import torch

from caffe import products

LARGE = [(32, 1024, 64), (64, 1024, 32), (1, 2048, 1024), (7, 300, 900), (600, 32, 3000)]
SMALL = [(3, 4, 5), (32, 512, 6), (1, 1, 1)]


def matrix(rows, columns, how, dtype=torch.float32):
    """A matrix of whole numbers, which every order of summation gives the same product of."""
    generator = torch.Generator().manual_seed(rows + columns)
    values = torch.randint(-4, 5, (rows, columns), generator=generator)
    if how == "columns":
        return values.t().contiguous().t().to(dtype)
    if how == "every other":
        wide = torch.zeros(rows, 2 * columns, dtype=dtype)
        wide[:, ::2] = values
        return wide[:, ::2]
    return values.to(dtype)


def expected(left, right, bias=0.0):
    return left.double() @ right.double().t() + bias


@pytest.mark.parametrize("shape", LARGE + SMALL)
@pytest.mark.parametrize("lefts", ["rows", "columns", "every other"])
@pytest.mark.parametrize("rights", ["rows", "columns", "every other"])
def test_products_are_exact_however_matrices_lie(shape, lefts, rights):
    rows, inner, columns = shape
    left, right = matrix(rows, inner, lefts), matrix(columns, inner, rights)
    bias = torch.arange(float(columns))
    assert torch.equal(products.product(left, right).double(), expected(left, right))
    assert torch.equal(products.product(left, right, bias).double(), expected(left, right, bias))
    total = matrix(rows, columns, "rows")
    sums = total.double() + expected(left, right)
    products.put_product(left, right, total, adds=True)
    assert torch.equal(total.double(), sums)
    total = torch.full((rows, columns), torch.nan)
    products.put_product(left, right, total, adds=False)
    assert torch.equal(total.double(), expected(left, right))


def test_factors_and_bias_stay_as_they_are():
    left, right, bias = matrix(32, 1024, "rows"), matrix(64, 1024, "rows"), torch.ones(64)
    kept = [tensor.clone() for tensor in (left, right, bias)]
    products.product(left, right, bias)
    products.put_product(left, right, torch.zeros(32, 64), adds=True)
    assert all(map(torch.equal, (left, right, bias), kept))


def test_double_precision_is_pytorchs(monkeypatch):
    monkeypatch.setattr(products, "_linear", None)  # would fail if it were called
    left, right = (matrix(n, 1024, "rows", torch.float64) for n in (32, 64))
    assert torch.equal(products.product(left, right), expected(left, right))


@pytest.mark.parametrize("shape", LARGE + SMALL)
@pytest.mark.parametrize("rights", ["rows", "columns"])
@pytest.mark.parametrize("supported", [True, False])
def test_products_of_bfloat16_are_rounded_once_or_twice(shape, rights, supported, monkeypatch):
    if not supported:
        monkeypatch.setattr(products, "_DTYPES", [torch.float32])
    rows, inner, columns = shape
    left = matrix(rows, inner, "rows", torch.bfloat16)
    right = matrix(columns, inner, rights, torch.bfloat16)
    bias = torch.arange(float(columns)).remainder(7).bfloat16()
    for given in (None, bias):
        result = products.product(left, right, given)
        assert result.dtype is torch.bfloat16
        exact = expected(left, right, 0 if given is None else given.double())
        assert np.allclose(result.double(), exact, rtol=2**-7, atol=1)


def test_large_ones_are_onednns_where_it_is(monkeypatch):
    sizes = []
    original = products._linear
    monkeypatch.setattr(
        products, "_linear", lambda *given: sizes.append(len(given[0])) or original(*given)
    )
    left, right = matrix(32, 1024, "rows"), matrix(64, 1024, "rows")
    products.product(left, right)
    assert sizes == ([64] if products._IS_THERE else [])  # the smaller one second
    left, right = matrix(600, 32, "columns"), matrix(3000, 32, "rows")
    products.put_product(left, right, torch.zeros(600, 3000), adds=True)
    assert sizes == ([64, 349, 251] if products._IS_THERE else [])  # in pieces


def test_without_onednn_all_are_pytorchs(monkeypatch):
    monkeypatch.setattr(products, "_IS_THERE", False)
    monkeypatch.setattr(products, "_linear", None)
    left, right = matrix(32, 1024, "rows"), matrix(64, 1024, "rows")
    assert torch.equal(products.product(left, right).double(), expected(left, right))
    total = torch.zeros(32, 64)
    products.put_product(left, right, total, adds=True)
    assert torch.equal(total.double(), expected(left, right))


def test_pytorchs_compiler_is_left_its_own_products(monkeypatch):
    # It knows the operator with packed weights only, and gave up a whole net for it.
    monkeypatch.setattr(products, "_linear", None)
    left, right = matrix(32, 1024, "rows"), matrix(64, 1024, "rows")
    compiled = torch.compile(products.product, backend="eager", fullgraph=True)
    assert torch.equal(compiled(left, right).double(), expected(left, right))
    total = torch.zeros(32, 64)
    put = torch.compile(products.put_product, backend="eager", fullgraph=True)
    put(left, right, total, adds=False)
    assert torch.equal(total.double(), expected(left, right))
