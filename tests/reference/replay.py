# ruff: noqa: E501, PTH100, PTH110, PTH118, PTH119, PTH120, PTH123, PTH208, T201 - as pycaffe ran it
"""Replay cases recorded from BVLC Caffe 1.0 through whatever `import caffe` finds, and compare.

Usage:  PYTHONPATH=<folder of the caffe package> python replay.py [--cases DIR] [--verbose] [PREFIX ...]

Works with pycaffe itself (that is how the recordings were checked) and with any engine that has
pycaffe's interface.  Prints a line per failing case, a table per family, and last 'N passed, N failed'.
Exit status 0 if all pass, 1 otherwise.  Each case runs in a child process, because pycaffe aborts on a
failed CHECK; an abort or an exception of any kind counts as "refused".
"""

import argparse
import collections
import json
import multiprocessing as mp
import os
import shutil
import sys
import tempfile

import numpy as np


class Arrays(dict):
    """The arrays of an .npz file, which is closed again."""

    def __init__(self, path):
        with np.load(path) as file:
            super().__init__({key: file[key] for key in file.files})

    @property
    def files(self):
        return list(self)


def close(name, got, want, bad):
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        if got.size != want.size:
            bad.append(f"{name}: shape {got.shape}, Caffe {want.shape}")
            return
        bad.append(f"{name}: shape {got.shape}, Caffe {want.shape}")
        return
    scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0))
    ok = np.isclose(got, want, rtol=1e-4, atol=1e-5 * scale + 1e-7, equal_nan=True)
    if not ok.all():
        i = np.unravel_index(int(np.argmin(ok)), ok.shape)
        bad.append(
            f"{name}{list(map(int, i))}: got {got[i]!r}, Caffe {want[i]!r} ({(~ok).sum()} of {ok.size} differ)"
        )


def split(npz):
    """{'blob:x': a} -> [('blob', 'x', a)], parameters get (layer, index)."""
    out = []
    for key in npz.files:
        kind, rest = key.split(":", 1)
        out.append((kind, rest, npz[key]))
    return out


def param(net, rest):
    layer, i = rest.rsplit(":", 1)
    return net.params[layer][int(i)]


def introspection(net, meta, bad):
    for attr, key in (
        ("inputs", "inputs"),
        ("outputs", "outputs"),
        ("_layer_names", "layer_names"),
    ):
        if key in meta and list(getattr(net, attr)) != list(meta[key]):
            bad.append(f"net.{attr}: {list(getattr(net, attr))}, Caffe {meta[key]}")
    if "blob_names" in meta and list(net.blobs) != list(meta["blob_names"]):
        bad.append(f"net.blobs: {list(net.blobs)}, Caffe {meta['blob_names']}")
    for name, shape in meta.get("param_shapes", {}).items():
        if name not in net.params:
            bad.append(f"net.params lacks {name}")
        elif [list(p.data.shape) for p in net.params[name]] != [list(s) for s in shape]:
            bad.append(
                f"shape of {name}: {[list(p.data.shape) for p in net.params[name]]}, Caffe {shape}"
            )


def load(net, entries):
    for kind, rest, array in entries:
        if kind == "blob" and "@" not in rest:
            blob = net.blobs[rest]
            if tuple(blob.data.shape) != array.shape:
                blob.reshape(*array.shape)
                net.reshape()
            blob.data[...] = array
        elif kind == "param":
            param(net, rest).data[...] = array


def compare_forward(net, entries, bad):
    for kind, rest, array in entries:
        if kind == "blob" and "@" not in rest:
            close(f"blob {rest}", net.blobs[rest].data, array, bad)
        elif kind == "param_after":
            close(f"param {rest}", param(net, rest).data, array, bad)


def run_layer(caffe, case, meta, bad):
    net = caffe.Net(
        f"{case}/net.prototxt", caffe.TEST if meta.get("phase") in ("TEST", 1) else caffe.TRAIN
    )
    introspection(net, meta, bad)
    given, want = split(Arrays(f"{case}/in.npz")), split(Arrays(f"{case}/out.npz"))
    load(net, given)
    net.forward()
    if "dropout" in os.path.basename(case) and "train" in os.path.basename(case):
        return  # random mask: not replayable number by number
    compare_forward(net, want, bad)
    if meta.get("backward"):
        net.clear_param_diffs()
        for kind, rest, array in given:
            if kind == "topdiff":
                net.blobs[rest].diff[...] = array
        net._backward(len(net.layers) - 1, 0)
        for kind, rest, array in want:
            if kind == "diff":
                close(f"diff {rest}", net.blobs[rest].diff, array, bad)
            elif kind == "paramdiff":
                close(f"paramdiff {rest}", param(net, rest).diff, array, bad)


def localise(case):
    """Copy the case to a scratch folder and make its solver's paths point there."""
    scratch = tempfile.mkdtemp(prefix="replay-")
    here = os.path.join(scratch, os.path.basename(case))
    shutil.copytree(case, here)
    for name in os.listdir(here):
        if name.endswith(".prototxt"):
            path = os.path.join(here, name)
            with open(path, encoding="utf-8", errors="surrogateescape") as f:
                text = f.read()
            if "{CASE}" in text:
                with open(path, "w", encoding="utf-8", errors="surrogateescape") as f:
                    f.write(text.replace("{CASE}", here))
    return scratch, here


def run_solver(caffe, case, meta, bad):
    scratch, here = localise(case)
    try:
        solver = caffe.get_solver(f"{here}/solver.prototxt")
        given, want = Arrays(f"{here}/in.npz"), Arrays(f"{here}/out.npz")
        for key in given.files:
            if key.startswith("param:"):
                param(solver.net, key[6:]).data[...] = given[key]
        names = {k.split("@")[0] for k in given.files if k.startswith("blob:") and "@" in k}
        for k in range(meta["iters"]):
            for name in names:
                solver.net.blobs[name[5:]].data[...] = given[f"{name}@{k}"]
            solver.step(1)
            for key in want.files:
                if "@" in key and key.endswith(f"@{k + 1}") and key.startswith("param:"):
                    close(f"{key}", param(solver.net, key.split("@")[0][6:]).data, want[key], bad)
            if bad:
                return
        if "iter_end" in meta and solver.iter != meta["iter_end"]:
            bad.append(f"solver.iter {solver.iter}, Caffe {meta['iter_end']}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_accepts(caffe, case, meta, bad):
    want = bool(meta.get("accepted"))
    try:
        net = caffe.Net(f"{case}/net.prototxt", caffe.TEST)
        got, why = True, ""
        result = meta.get("result") or {}
        if want and result:
            for name in ("inputs", "outputs"):
                if name in result and list(getattr(net, name)) != list(result[name]):
                    bad.append(f"net.{name}: {list(getattr(net, name))}, Caffe {result[name]}")
            if "layers" in result and list(net._layer_names) != list(result["layers"]):
                bad.append(f"layers: {list(net._layer_names)}, Caffe {result['layers']}")
            for name, shape in (result.get("blobs") or {}).items():
                if name not in net.blobs or list(net.blobs[name].data.shape) != list(shape):
                    bad.append(f"blob {name}: Caffe has shape {shape}")
        if want and meta.get("forward_ok"):
            net.forward()
    except Exception as error:  # noqa: BLE001
        got, why = False, f" ({type(error).__name__}: {error})"
    if got != want:
        bad.append(
            f"{'accepted' if got else 'refused'}{why}, Caffe {'accepts' if want else 'refuses'}: {str(meta.get('message', ''))[-160:]}"
        )


def run_weights(caffe, case, meta, bad):
    net = caffe.Net(
        f"{case}/net.prototxt", f"{case}/{meta.get('file', 'w.caffemodel')}", caffe.TEST
    )
    given, want = split(Arrays(f"{case}/in.npz")), split(Arrays(f"{case}/out.npz"))
    for kind, rest, array in given:
        if kind == "blob":
            net.blobs[rest].data[...] = array
    net.forward()
    compare_forward(net, want, bad)


def run_dqn(caffe, case, meta, bad):
    net = caffe.Net(f"{case}/net.prototxt", caffe.TRAIN)
    introspection(net, meta, bad)
    if any(layer.type == "Dropout" for layer in net.layers):
        return  # random mask: not replayable number by number
    given, want = split(Arrays(f"{case}/in.npz")), split(Arrays(f"{case}/out.npz"))
    load(net, given)
    if os.path.exists(f"{case}/start.caffemodel") and not any(k == "param" for k, _, _ in given):
        net.copy_from(f"{case}/start.caffemodel")
    net.forward()
    compare_forward(net, want, bad)
    net.clear_param_diffs()
    net.backward()
    for kind, rest, array in want:
        if kind == "paramdiff":
            close(f"paramdiff {rest}", param(net, rest).diff, array, bad)
        elif kind == "diff":
            close(f"diff {rest}", net.blobs[rest].diff, array, bad)


RUNNERS = {
    "layer": run_layer,
    "solver": run_solver,
    "text_quirk": run_accepts,
    "refuse": run_accepts,
    "weights": run_weights,
    "upgrade_text": run_layer,
    "dqn": run_dqn,
}


def child(case, queue):
    os.environ.setdefault("GLOG_minloglevel", "4")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    with open(f"{case}/meta.json") as f:
        meta = json.load(f)
    bad = []
    try:
        import caffe

        caffe.set_mode_cpu()
        RUNNERS[meta["kind"]](caffe, case, meta, bad)
    except BaseException as error:  # noqa: BLE001
        bad.append(f"{type(error).__name__}: {error}")
    queue.put(bad[:4])


def one(case):
    with open(f"{case}/meta.json") as f:
        meta = json.load(f)
    if meta["kind"] not in RUNNERS:
        return None
    queue = mp.SimpleQueue()
    process = mp.Process(target=child, args=(case, queue))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        process.join()
        return ["no answer in 120 s"]
    if process.exitcode == 0 and not queue.empty():
        return queue.get()
    refused = meta["kind"] in ("refuse", "text_quirk") and not (
        meta.get("accepted") and meta.get("forward_ok")
    )
    return [] if refused else [f"the process died ({process.exitcode})"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prefixes", nargs="*", metavar="PREFIX")
    parser.add_argument(
        "--cases", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "cases")
    )
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    mp.set_start_method("fork")
    try:
        import caffe  # noqa: F401  (once here, so that the forked children need not)
    except ImportError as error:
        sys.exit(f"replay: {error}")
    table = collections.defaultdict(lambda: [0, 0])
    for name in sorted(os.listdir(args.cases)):
        case = os.path.join(args.cases, name)
        if not os.path.exists(f"{case}/meta.json") or (
            args.prefixes and not name.startswith(tuple(args.prefixes))
        ):
            continue
        bad = one(case)
        if bad is None:
            continue
        family = name.split("_")[0]
        table[family][bool(bad)] += 1
        if bad or args.verbose:
            print(f"{'FAIL' if bad else 'ok  '} {name}: {'; '.join(bad)[:400]}", flush=True)
    passed, failed = sum(v[0] for v in table.values()), sum(v[1] for v in table.values())
    for family in sorted(table):
        print(f"  {family:16s} {table[family][0]:4d} passed {table[family][1]:4d} failed")
    print(f"{passed} passed, {failed} failed")
    sys.exit(bool(failed) or not passed)


if __name__ == "__main__":
    main()
