"""The engine beside hand-written PyTorch: one Q-learning step, and choosing actions.

A step is what a worker does between a minibatch and a gradient: forward of the online and of the
target network, backward of the online one; Nature net, 6 actions, frames as bytes.  Every variant
gets the same bytes and the same gradient of Q, keeps float32 weights and ends with float32
gradients.  All variants of a table are run in turn, round by round, so that a busy moment of the
machine hits them all; the figures are medians, the ratios those of the medians.

The ceiling is the machine's own matrix product, 1024³, measured in the same rounds: a step's
multiply-adds at that speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# A compiled kernel belongs to this run: nothing is left in anybody's home.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(prefix="bench-engine-"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402  # after the environment is set
import torch  # noqa: E402
from torch import nn  # noqa: E402

import caffe  # noqa: E402

MODEL = str(ROOT / "models/deepq/train_val.prototxt")
ACTIONS = 6
# Multiply-adds of one image: three convolutions and two dense layers.
CONVOLUTIONS = (32 * 20 * 20 * 4 * 64, 64 * 81 * 32 * 16, 64 * 49 * 64 * 9)
DENSE = (3136 * 512, 512 * ACTIONS)
#: Two forward passes, one of weights' gradients, one of inputs' (none for the first layer).
STEP_FLOPS = 2 * (4 * sum(CONVOLUTIONS + DENSE) - CONVOLUTIONS[0])


class Nature(nn.Module):
    """The network of Mnih et al., 2015, as one would write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
            nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS),
        )  # fmt: skip

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return Q, float32 [B, A], of scaled states [B, 4, 84, 84]."""
        return self.body(states)


def by_hand(
    batch: int, *, channels_last: bool, bf16: bool, compiled: bool
) -> tuple[Callable[[], object], Nature]:
    """Return a step in PyTorch, and its online network."""
    torch.manual_seed(0)
    online, target = Nature(), Nature()
    if channels_last:
        online, target = (net.to(memory_format=torch.channels_last) for net in (online, target))
    run_online, run_target = online, target
    if compiled:
        run_online, run_target = torch.compile(online), torch.compile(target)
    states, q_diff = inputs(batch)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def scaled() -> torch.Tensor:
        return torch.from_numpy(states).float().mul_(1 / 255).to(memory_format=layout)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            with torch.no_grad():
                run_target(scaled())
            q = run_online(scaled())
        online.zero_grad(set_to_none=True)
        q.backward(torch.from_numpy(q_diff).to(q.dtype))

    return step, online


def by_engine(batch: int, precision: str) -> Callable[[], object]:
    """Return a step in this engine."""
    online, target = caffe.Net(MODEL, caffe.TRAIN), caffe.Net(MODEL, caffe.TEST)
    states, q_diff = inputs(batch)
    for net in (online, target):
        net.blobs["state"].reshape(*states.shape)
        net.reshape()

    def step() -> None:
        caffe.set_precision(precision)
        target.forward(state=states)
        online.forward(state=states)
        online.clear_param_diffs()
        online.backward(Q_out=q_diff)

    return step


def inputs(batch: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return states, uint8 [B, 4, 84, 84], and a gradient of Q, float32 [B, A]."""
    generator = np.random.default_rng(0)
    states = generator.integers(0, 256, (batch, 4, 84, 84), dtype=np.uint8)
    return states, generator.normal(size=(batch, ACTIONS)).astype(np.float32)


def product(precision: str) -> Callable[[], object]:
    """Return the machine's ceiling: a product of two 1024 × 1024 matrices."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(1024, 1024).to(dtype)
    return lambda: torch.mm(a, a)


def steps(batch: int, precision: str, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Return every variant of a step."""
    variants = {"engine": by_engine(batch, precision), "product": product(precision)}
    if precision == "bf16":
        variants["engine, bf16-all"] = by_engine(batch, "bf16-all")
    for kind in ("eager", "compiled") if compiled else ("eager",):
        for layout in ("NCHW", "channels-last"):
            variants[f"PyTorch {kind}, {layout}"] = by_hand(
                batch,
                channels_last=layout != "NCHW",
                bf16=precision == "bf16",
                compiled=kind == "compiled",
            )[0]
    return variants


def choices(batch: int, precision: str, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """Return every variant of choosing actions: forward alone, from bytes to an array of Q."""
    states, _ = inputs(batch)
    engine = caffe.Net(MODEL, caffe.TEST)
    engine.blobs["state"].reshape(*states.shape)
    engine.reshape()

    def by_caffe() -> object:
        caffe.set_precision(precision)
        return engine.forward(state=states)["Q_out"].copy()

    variants: dict[str, Callable[[], object]] = {"engine": by_caffe}
    for layout in (torch.contiguous_format, torch.channels_last):
        net = Nature().eval().to(memory_format=layout)

        def scaled(layout: torch.memory_format = layout) -> torch.Tensor:
            return torch.from_numpy(states).float().mul_(1 / 255).to(memory_format=layout)

        runs: dict[str, Any] = {"eager": net}
        half = torch.autocast(  # with its cache of weights a trace would hold copies of them
            "cpu", torch.bfloat16, enabled=precision == "bf16", cache_enabled=False
        )
        with torch.no_grad(), half:
            runs["traced"] = torch.jit.trace(net, scaled(), check_trace=False)
        if compiled:
            runs["compiled"] = torch.compile(net)

        for kind, run in runs.items():

            def choose(run: Any = run, scaled: Callable[[], torch.Tensor] = scaled) -> object:
                with (
                    torch.no_grad(),
                    torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
                ):
                    return run(scaled()).float().numpy()

            name = "NCHW" if layout is torch.contiguous_format else "channels-last"
            variants[f"PyTorch {kind}, {name}"] = choose
    return variants


def measure(variants: dict[str, Callable[[], object]], rounds: int, repeats: int) -> dict[str, Any]:
    """Return the milliseconds of every variant: median and quartiles over rounds · repeats runs."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        for _ in range(8):  # compiling, timing lowerings, filling caches
            call()
    for _ in range(rounds):
        for name, call in variants.items():
            for _ in range(repeats):
                started = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - started))
    return {
        name: dict(zip(("quarter", "median", "three_quarters"), quartiles, strict=True))
        for name, values in times.items()
        for quartiles in [statistics.quantiles(values, n=4)]
    }


def has_compiler() -> bool:
    """Return whether PyTorch can compile here."""
    try:
        return (
            subprocess.run(["c++", "--version"], capture_output=True, check=False).returncode == 0
        )
    except OSError:
        return False


def table(title: str, result: dict[str, Any], flops: float | None) -> None:
    """Print one comparison."""
    print(f"\n{title}")
    mine = result["engine"]["median"]
    product_ms = result.get("product", {}).get("median")
    for name, times in result.items():
        if name == "product":
            continue
        share = ""
        if flops and product_ms:
            share = f"  {flops / (2 * 1024**3) * product_ms / times['median']:5.0%} of the ceiling"
        ratio = times["median"] / mine
        print(f"  {name:32} {times['median']:8.3f} ms  {ratio:5.2f} × engine{share}")
    if product_ms:
        print(f"  ceiling: {2 * 1024**3 / product_ms / 1e6:.0f} GFLOP/s")


def main() -> None:
    """Measure, print the tables and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/engine.json")
    options = parser.parse_args()
    caffe.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # torch.jit is deprecated, and still the fastest act by hand
    compiled = not options.no_compile and has_compiler()
    processor = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
    print(f"{processor}, {options.threads} thread(s), PyTorch {torch.__version__}")
    results: dict[str, Any] = {}
    for precision in ("float32", "bf16"):
        for batch in options.batches:
            title = f"step, batch {batch}, {precision}"
            repeats = 3 if batch <= 32 else 1
            variants = steps(batch, precision, compiled=compiled)
            results[title] = measure(variants, options.rounds, repeats)
            table(title, results[title], STEP_FLOPS * batch)
        for batch in (1, 8):
            title = f"act, batch {batch}, {precision}"
            variants = choices(batch, precision, compiled=compiled)
            results[title] = measure(variants, options.rounds, 20)
            table(title, results[title], None)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(
        json.dumps(
            {
                "processor": processor,
                "threads": options.threads,
                "torch": torch.__version__,
                "milliseconds": results,
            },
            indent=1,
        )
    )
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
