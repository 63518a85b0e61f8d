"""Choosing how convolutions are computed, by timing.

Which lowering wins depends on the processor, the shapes, the precision and the number of threads.
So a net's convolutions are timed in each of theirs, on values of the net's shapes, when the net
has been run a few times; small nets are not worth it and stay with Caffe's layout.  The times are
remembered in a file of the machine's temporary folder, so that the next process chooses the same
at once.  `set_lowering` chooses by hand, which also makes the rounding the same everywhere.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from caffe import lowerings
from caffe.errors import CaffeError
from caffe.lowerings import CONTIGUOUS, GEMM, LAST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

_CHOICES = ("auto", CONTIGUOUS, LAST, GEMM)
_WORTHWHILE = 4_000_000  # multiply-adds of a pass: less takes about as long as asking
_PASSES = 3  # a net that is run fewer times is not timed
_ROUNDS = 7


class _Settings:
    lowering = "auto"
    times: dict[str, dict[str, float]] | None = None


def set_lowering(name: str) -> None:
    """Choose how convolutions are computed: "contiguous", "channels_last", "gemm", or "auto".

    A convolution that cannot be computed so (three spatial axes, say) stays with "contiguous".
    Nets follow at their next whole forward pass after a reshape, or when they are made.

    Raises:
        CaffeError: If the name is another; the setting is unchanged.
    """
    if name not in _CHOICES:
        raise CaffeError(f"lowering '{name}' is unknown; it is one of {', '.join(_CHOICES)}")
    _Settings.lowering = name


class Convolving(Protocol):
    """What is asked of a layer that convolves."""

    windows: lowerings.Windows
    forward_lowering: str
    backward_lowering: str

    def problem(self, *, needs_diff: bool) -> Problem:
        """Return what there is to compute; `needs_diff`: the bottom's gradient too."""


class Place(NamedTuple):
    """A convolution within a net."""

    layer: Convolving
    needs_diff: bool  # its bottom's gradient is wanted
    follows: bool  # its bottom is another convolution's top, rectified perhaps


class Problem(NamedTuple):
    """One convolution: the shapes of bottom, weight and top; what to compute, and how."""

    bottom: tuple[int, ...]
    weight: tuple[int, ...]
    top: tuple[int, ...]
    wanted: tuple[bool, bool, bool]  # the gradients of bottom, weight and bias
    halves: tuple[bool, bool]  # whether forward and backward are in bfloat16


class Tuner:
    """Chooses the lowerings of one net's convolutions when it has been run a few times."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = places
        self._forwards = self._backwards = 0
        if _Settings.lowering != "auto":
            for layer, *_ in places:
                possible = layer.windows.lowerings()
                name = _Settings.lowering if _Settings.lowering in possible else possible[-1]
                layer.forward_lowering = layer.backward_lowering = name

    def ran_forward(self) -> None:
        """Count a forward pass, and choose when it is time."""
        self._forwards += 1
        if self._forwards == _PASSES:
            self._choose(with_backward=False)

    def ran_backward(self) -> None:
        """Count a backward pass, and choose when it is time."""
        self._backwards += 1
        if self._backwards == _PASSES:
            self._choose(with_backward=True)

    def _choose(self, *, with_backward: bool) -> None:
        places = self._places
        problems = [place.layer.problem(needs_diff=place.needs_diff) for place in places]
        work = sum(_work(problem) for problem in problems)
        images = all(len(place.layer.windows.lowerings()) > 1 for place in places)
        if _Settings.lowering != "auto" or work < _WORTHWHILE or not images:
            return
        table = [
            _times(place.layer.windows, problem, with_backward=with_backward)
            for place, problem in zip(places, problems, strict=True)
        ]
        turned = [p.bottom for p, place in zip(problems, places, strict=True) if not place.follows]
        turned += [
            before.top
            for before, place in zip(problems, [*places[1:], None], strict=True)
            if place is None or not place.follows
        ]
        turning = sum(map(_turning_time, turned)) * (2 if with_backward else 1)
        plans = [_plan(table, CONTIGUOUS, 0.0), _plan(table, LAST, turning)]
        best = min(plans, key=lambda plan: plan.milliseconds)
        for (layer, *_), (forward, backward) in zip(places, best.names, strict=True):
            layer.forward_lowering, layer.backward_lowering = forward, backward
        logger.info(
            "convolutions: %s; %.2f ms (NCHW) or %.2f ms (NHWC)",
            ", ".join("/".join(names) for names in best.names),
            *(plan.milliseconds for plan in plans),
        )


class _Plan(NamedTuple):
    milliseconds: float
    names: list[tuple[str, str]]


def _plan(
    table: Sequence[tuple[dict[str, float], dict[str, float]]], layout: str, total: float
) -> _Plan:
    """Return the fastest lowerings in a layout that is kept from layer to layer.

    `total` is what it costs to get into that layout and out of it again.
    """
    names = []
    for directions in table:
        chosen = []
        for times in directions:
            fitting = [n for n in times if (n == CONTIGUOUS) == (layout == CONTIGUOUS)]
            name = min(fitting or times, key=times.__getitem__, default=CONTIGUOUS)
            total += times.get(name, 0.0)
            chosen.append(name)
        names.append((chosen[0], chosen[1]))
    return _Plan(total, names)


def _work(problem: Problem) -> int:
    """Return the multiply-adds of a forward pass."""
    return math.prod(problem.top) // problem.top[1] * math.prod(problem.weight)


def _times(
    windows: lowerings.Windows, problem: Problem, *, with_backward: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the milliseconds of every lowering, forward and backward (empty: not asked for)."""
    generator = torch.Generator().manual_seed(0)  # the net's own random numbers stay as they are
    names, threads = windows.lowerings(), torch.get_num_threads()
    shapes = (problem.bottom, problem.weight, (problem.top[1],), problem.top)
    forward, backward = (
        [
            torch.empty(shape)
            .normal_(generator=generator)
            .to(torch.bfloat16 if half else torch.get_default_dtype())
            for shape in shapes
        ]
        for half in problem.halves
    )

    def forward_call(name: str) -> Callable[[], object]:
        x, weight, bias, _ = forward
        given = lowerings.arrange(x, name)
        return lambda: lowerings.forward(given, weight, bias, windows, name)

    def backward_call(name: str) -> Callable[[], object]:
        x, weight, _, dy = backward
        given, diff = lowerings.arrange(x, name), lowerings.arrange(dy, name)
        return lambda: lowerings.backward(diff, given, weight, windows, name, wanted=problem.wanted)

    key = f"{torch.get_default_dtype()} {threads} threads {windows} {tuple(problem)}"
    return (
        _remembered(f"forward {key}", {name: forward_call(name) for name in names}),
        _remembered(f"backward {key}", {name: backward_call(name) for name in names})
        if with_backward and any(problem.wanted)
        else {},
    )


def _turning_time(shape: tuple[int, ...]) -> float:
    """Return the milliseconds of turning an image from one layout into the other."""
    x = torch.zeros(shape)
    key = f"turning {shape} {torch.get_num_threads()} threads"
    return _remembered(key, {LAST: lambda: lowerings.arrange(x, LAST)})[LAST]


def _remembered(key: str, candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the time of every candidate, in milliseconds, measured now or earlier."""
    known = _known_times()
    if set(known.get(key, ())) != set(candidates):
        best = dict.fromkeys(candidates, float("inf"))
        for round_ in range(_ROUNDS):
            for name, call in candidates.items():  # in turn: a busy moment hits them all
                started = time.perf_counter()
                call()
                if round_:  # the first one finds nothing in the caches
                    best[name] = min(best[name], 1000 * (time.perf_counter() - started))
        known[key] = best
        _remember(known)
    return known[key]


def _known_times() -> dict[str, dict[str, float]]:
    if _Settings.times is None:
        try:
            file = _memory_file()
            _Settings.times = json.loads(file.read_text()) if file else {}
        except (OSError, ValueError):
            _Settings.times = {}
    return _Settings.times


def _remember(times: dict[str, dict[str, float]]) -> None:
    """Write the times down; a failure costs the next process a moment, no more."""
    try:
        file = _memory_file()
        if file is not None:
            beside = file.with_suffix(f".{os.getpid()}")
            beside.write_text(json.dumps(times, indent=0))
            beside.replace(file)
    except OSError as error:
        logger.info("the times of convolutions are not remembered: %s", error)


def _memory_file() -> Path | None:
    """Return the file of this processor and this PyTorch, in a folder that is ours alone."""
    folder = Path(tempfile.gettempdir()) / f"caffe-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    if not ours or status.st_mode & 0o022:
        return None
    name = f"{_processor()}-torch-{torch.__version__}"
    return folder / f"{''.join(c if c.isalnum() else '-' for c in name)}.json"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


set_lowering(os.environ.get("DDQ_LOWERING") or "auto")
