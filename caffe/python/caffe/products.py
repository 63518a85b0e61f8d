"""Products of matrices, by whichever library is the faster one.

PyTorch leaves products of float32 to MKL, which has no AVX-512 for a processor of AMD's: 107
GFLOP/s on one core of Zen 5, where oneDNN, which computes the convolutions, reaches 240.  So large
ones go to oneDNN, by the operator that PyTorch's own compiler uses for linear layers.  It takes
10 µs to call, so small ones stay with PyTorch.  Products of bfloat16 are oneDNN's in any case, but
here the smaller matrix is the second one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_LARGE = 1 << 20  # multiply-adds
_FEW = 16  # rows: a second matrix of fewer leaves vector units idle
_PIECE = 1 << 20  # values: more are slow to allocate, and leave the cache before they are added
_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_IS_THERE: bool = _HAS_ONEDNN and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_DTYPES = [torch.float32]
if _IS_THERE and torch.ops.mkldnn._is_mkldnn_bf16_supported():  # noqa: SLF001
    _DTYPES.append(torch.bfloat16)


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return [M, K] · [N, K]ᵀ, plus a bias [N] on each row: [M, N], perhaps a transposed view.

    All are of one dtype and on one device, and may be views.
    """
    if not _is_for_onednn(left, right):
        columns = right.t()
        return torch.mm(left, columns) if bias is None else torch.addmm(bias, left, columns)
    if _FEW <= len(left) < len(right) and right.is_contiguous():
        # It lays out its second matrix anew, which should then be the smaller one.
        y = _linear(right, left).t()
        return y if bias is None else y.add_(bias)
    return _linear(left, right, bias)


def put_product(left: Tensor, right: Tensor, total: Tensor, *, adds: bool) -> None:
    """Set a matrix [M, N] to [M, K] · [N, K]ᵀ, or add to it; otherwise as `product`."""
    if not _is_for_onednn(left, right):
        total.addmm_(left, right.t(), beta=1.0 if adds else 0.0)
        return
    rows = max(1, _PIECE // total.shape[1])
    for sums, piece in zip(torch.split(total, rows), torch.split(left, rows), strict=True):
        put(_linear(piece.contiguous(), right), sums, adds=adds)


def put(values: Tensor, total: Tensor, *, adds: bool) -> None:
    """Set a tensor to values, or add them to it."""
    if adds:
        total.add_(values)
    else:
        total.copy_(values)


def _is_for_onednn(left: Tensor, right: Tensor) -> bool:
    return (
        _IS_THERE
        and not torch.compiler.is_compiling()  # the compiler knows the operator with packed weights
        and left.dtype in _DTYPES
        and left.device.type == "cpu"
        and left.numel() * len(right) >= _LARGE
        and _is_dense(left)
        and _is_dense(right)
    )


def _is_dense(matrix: Tensor) -> bool:
    """Say whether it is whole rows or whole columns: for others oneDNN takes seconds."""
    return matrix.is_contiguous() or matrix.t().is_contiguous()


def _linear(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")  # noqa: SLF001
    return y
