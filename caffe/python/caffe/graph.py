"""A net's layers as they will run: rules applied, Split layers put in; no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffe.errors import CaffeError, require
from caffe.proto import caffe_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable


def _meets(state: caffe_pb2.NetState, rule: caffe_pb2.NetStateRule) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and all(stage in state.stage for stage in rule.stage)
        and not any(stage in state.stage for stage in rule.not_stage)
    )


def included(
    layers: Iterable[caffe_pb2.LayerParameter], state: caffe_pb2.NetState
) -> list[caffe_pb2.LayerParameter]:
    """Return the layers whose include and exclude rules the state meets.

    Raises:
        CaffeError: If a layer has rules of both kinds.
    """
    kept = []
    for layer in layers:
        require(
            not (layer.include and layer.exclude),
            f"layer '{layer.name}': give either include or exclude rules, not both",
        )
        excluded = any(_meets(state, rule) for rule in layer.exclude)
        if any(_meets(state, rule) for rule in layer.include) or (
            not layer.include and not excluded
        ):
            kept.append(layer)
    return kept


def _readers(
    layers: list[caffe_pb2.LayerParameter],
) -> tuple[dict[tuple[int, int], tuple[int, int]], dict[tuple[int, int], int]]:
    """Return which top (layer, index) every bottom reads, and how often every top is used.

    Being a loss counts as a use, as if another layer read the blob.
    """
    newest: dict[str, tuple[int, int]] = {}
    source: dict[tuple[int, int], tuple[int, int]] = {}
    uses: dict[tuple[int, int], int] = {}
    for i, layer in enumerate(layers):
        for j, name in enumerate(layer.bottom):
            if name not in newest:
                raise CaffeError(
                    f"layer '{layer.name}': no layer before it makes bottom {j}, '{name}'"
                )
            source[i, j] = newest[name]
            uses[newest[name]] = uses.get(newest[name], 0) + 1
        for j, name in enumerate(layer.top):
            newest[name] = (i, j)
        for j, weight in zip(range(len(layer.top)), layer.loss_weight, strict=False):
            if weight:
                top = newest[layer.top[j]]
                uses[top] = uses.get(top, 0) + 1
    return source, uses


def with_splits(layers: list[caffe_pb2.LayerParameter]) -> list[caffe_pb2.LayerParameter]:
    """Return copies of the layers, with a Split after every top that is used more than once.

    Raises:
        CaffeError: If a layer reads a blob that none before it makes.
    """
    source, uses = _readers(layers)
    taken: dict[tuple[int, int], int] = {}
    result = []
    for i, original in enumerate(layers):
        layer = caffe_pb2.LayerParameter()
        layer.CopyFrom(original)
        result.append(layer)
        for j, name in enumerate(layer.bottom):
            top = source[i, j]
            if uses[top] > 1:
                index = taken.get(top, 0)
                layer.bottom[j] = f"{name}_{layers[top[0]].name}_{top[1]}_split_{index}"
                taken[top] = index + 1
        for j, name in enumerate(layer.top):
            count = uses.get((i, j), 0)
            if count < 2:
                continue
            split = f"{name}_{layer.name}_{j}_split"
            weight = original.loss_weight[j] if j < len(original.loss_weight) else 0.0
            result.append(
                caffe_pb2.LayerParameter(
                    name=split,
                    type="Split",
                    bottom=[name],
                    top=[f"{split}_{k}" for k in range(count)],
                    loss_weight=[weight] + [0.0] * (count - 1) if weight else [],
                )
            )
            if weight:
                # The split's first top is the loss; the readers get the others.
                del layer.loss_weight[:]
                taken[i, j] = taken.get((i, j), 0) + 1
    return result
