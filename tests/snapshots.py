"""Snapshots as `barista.play` takes them: their network prefers one action."""

import json

import caffe
from tests import tiny

ECHO = "tests.coin_env:Echo-v0"


def write_snapshot(folder, prefers=1, *, game=ECHO, text=tiny.MODEL, **manifest):
    """Write a snapshot; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    net_file = folder / "train_val.prototxt"
    net_file.write_text(text)
    net = caffe.Net(str(net_file), caffe.TEST)
    net.param_arena[...] = 0
    net.params["Q_out"][1].data[prefers] = 1
    net.save(str(folder / "model.caffemodel"))
    (folder / "manifest.json").write_text(json.dumps({"game": game, **manifest}))
    return folder
