"""The Caffe solver behind the store: files in, files out, and each mistake in one line."""

import os
import subprocess
import sys

import numpy as np
import pytest
from caffe.proto import caffe_pb2
from param_server.engine import GATHERED, INITIAL, MODEL, SOLVER, STATE, TARGET, Engine
from param_server.errors import SnapshotFailed, UserMistake

NET = """
name: "tiny"
layer { name: "state" type: "Input" top: "state" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "state" top: "fc1"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "frozen" type: "InnerProduct" bottom: "fc1" top: "fc2" param { lr_mult: 0 }
        param { lr_mult: 0 }
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "Q_out" type: "InnerProduct" bottom: "fc2" top: "Q_out" loss_weight: 1
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
"""
SOLVER_TEXT = """# a comment that workers see
net: "net.prototxt"
type: "Adam" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 momentum2: 0.999
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER_TEXT)
    return tmp_path


def load(files, name="work", **options):
    work = files / name
    work.mkdir()
    return Engine(files / "solver.prototxt", roots=[], work=work, **{"seed": 1, **options})


def gradients(engine, count=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, engine.layout.size)).astype(np.float32)


def saved(engine, folder):
    folder.mkdir()
    engine.save(folder)
    engine.finish(folder, np.arange(engine.layout.size, dtype=np.float32))
    return folder


def test_layout_is_that_of_the_learnable_parameters(files):
    engine = load(files)
    assert engine.layout.entries == (
        ("fc1/0", (4, 3)), ("fc1/1", (4,)), ("Q_out/0", (2, 4)), ("Q_out/1", (2,)),
    )  # fmt: skip
    assert engine.solver_type == "Adam"
    assert engine.lr == pytest.approx(0.01)


def test_workers_get_the_texts_as_they_were_written(files):
    engine = load(files)
    assert (engine.net_text, engine.solver_text) == (NET, SOLVER_TEXT)


def test_weights_are_a_live_view_that_a_gradient_changes_in_place(files):
    engine = load(files)
    weights, before = engine.weights, engine.weights.copy()
    engine.apply(gradients(engine)[0])
    np.testing.assert_allclose(np.abs(weights - before), 0.01, rtol=1e-3)  # Adam's first step


def test_seed_fixes_the_initial_weights(files):
    assert np.array_equal(load(files, "a").weights, load(files, "b").weights)
    assert not np.array_equal(load(files, "c").weights, load(files, "d", seed=2).weights)


def test_resumed_engine_goes_on_bit_for_bit(files):
    straight, first = load(files, "a"), load(files, "b")
    pieces = gradients(straight)
    for gradient in pieces:
        straight.apply(gradient)
    for gradient in pieces[:2]:
        first.apply(gradient)
    folder = saved(first, files / "2")
    second = load(files, "c", seed=9)
    second.restore(folder)
    for gradient in pieces[2:]:
        second.apply(gradient)
    assert np.array_equal(second.weights, straight.weights)


def test_snapshot_names_its_files_relatively_and_can_be_moved(files):
    engine = load(files)
    engine.apply(gradients(engine)[0])
    folder = saved(engine, files / "1")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [MODEL, TARGET, INITIAL, STATE, SOLVER, "train_val.prototxt"]
    )
    state = caffe_pb2.SolverState.FromString((folder / STATE).read_bytes())
    assert (state.learned_net, state.iter) == (MODEL, 1)
    moved = folder.rename(files / "moved")
    again = load(files, "again", seed=9)
    again.restore(moved)
    assert np.array_equal(again.weights, engine.weights)


def test_snapshot_is_a_solver_of_its_own(files):
    engine = load(files)
    folder = saved(engine, files / "0")
    (files / "elsewhere").mkdir()
    again = Engine(folder / SOLVER, roots=[], work=files / "elsewhere")
    assert again.layout == engine.layout
    assert again.solver_type == "Adam"


def test_target_survives_beside_the_frozen_parameters(files):
    engine = load(files)
    folder = saved(engine, files / "0")
    assert np.array_equal(engine.read_target(folder), np.arange(engine.layout.size))
    model, target = (
        caffe_pb2.NetParameter.FromString((folder / name).read_bytes()) for name in (MODEL, TARGET)
    )
    assert list(model.layer[2].blobs[0].data) == list(target.layer[2].blobs[0].data)
    assert list(target.layer[2].blobs[0].data) != [0.0] * 16


def test_target_is_whole_where_layers_share_a_parameter(files):
    """The last layer that shares it is loaded last, and so decides."""
    shared = NET.replace(
        'name: "Q_out" type: "InnerProduct"',
        'name: "again" type: "InnerProduct" bottom: "fc2" top: "fc3" param { name: "w" } '
        "inner_product_param { num_output: 4 } }\n"
        'layer { name: "Q_out" type: "InnerProduct" param { name: "w" }',
    ).replace("num_output: 2 ", "num_output: 4 ")
    (files / "net.prototxt").write_text(shared)
    engine = load(files)
    assert engine.layout.size == 12 + 4 + 16 + 4 + 4
    folder = saved(engine, files / "0")
    again = load(files, "again", weights=folder / TARGET)
    assert np.array_equal(again.weights, np.arange(engine.layout.size))
    assert np.array_equal(engine.read_target(folder), again.weights)


def test_reset_goes_back_to_the_beginning(files):
    engine = load(files)
    weights, pieces = engine.weights, gradients(engine)
    begin = weights.copy()
    for gradient in pieces:
        engine.apply(gradient)
    after = weights.copy()
    engine.reset()
    assert np.array_equal(weights, begin)
    for gradient in pieces:
        engine.apply(gradient)
    assert np.array_equal(weights, after)  # the solver's history began anew as well


def test_reset_after_a_restart_goes_back_to_the_first_beginning(files):
    first = load(files, "a")
    begin, pieces = first.weights.copy(), gradients(first)
    first.apply(pieces[0])
    folder = saved(first, files / "1")
    second = load(files, "b", seed=9)
    second.restore(folder)
    third = load(files, "c", seed=10)
    third.restore(saved(second, files / "2"))
    for engine in (second, third):
        engine.apply(pieces[1])
        engine.reset()
        assert np.array_equal(engine.weights, begin)
    first.reset()
    third.apply(pieces[2])
    first.apply(pieces[2])
    assert np.array_equal(third.weights, first.weights)  # the history began anew as well


def test_snapshot_of_before_has_no_beginning(files):
    first = load(files, "a")
    folder = saved(first, files / "0")
    (folder / INITIAL).unlink()
    second = load(files, "b", seed=9)
    begin = second.weights.copy()
    second.restore(folder)
    second.reset()
    assert np.array_equal(second.weights, begin)


def test_beginning_is_one_file_or_a_copy_where_files_have_one_name(files, monkeypatch):
    engine = load(files)
    assert saved(engine, files / "0").joinpath(INITIAL).stat().st_nlink == 2

    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("param_server.engine.os.link", no_links)
    copy = saved(engine, files / "1") / INITIAL
    assert copy.read_bytes() == (files / "0" / INITIAL).read_bytes()


def test_gathered_part_of_an_update_survives(files):
    engine = load(files)
    assert engine.read_gathered(saved(engine, files / "0")) is None
    part = gradients(engine)[0]
    engine.save(files / "0")
    (files / "0" / INITIAL).unlink()
    engine.finish(files / "0", part, part)
    assert np.array_equal(engine.read_gathered(files / "0"), part)
    with (files / "0" / GATHERED).open("ab") as file:
        file.write(b"more")
    with pytest.raises(SnapshotFailed, match="does not fit: the payload has"):
        engine.read_gathered(files / "0")


FULL_DISK = """
import resource, sys
from pathlib import Path
from param_server.engine import MODEL, STATE, Engine
from param_server.errors import SnapshotFailed

files = Path(sys.argv[1])
engine = Engine(files / "solver.prototxt", roots=[], work=files / "work", seed=1)
before = sorted((files / "work").iterdir())
unlimited = resource.RLIM_INFINITY
sizes = [(files / "work" / name).stat().st_size for name in (MODEL, STATE)]
assert sizes[0] < sizes[1]
for limit in (sizes[0] // 2, sizes[0]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited))
    try:
        engine.save(files / "0")
    except SnapshotFailed as error:
        print(error)
    assert sorted((files / "work").iterdir()) == before
resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
engine.save(files / "0")
engine.finish(files / "0", engine.weights)
Engine(files / "0/solver.prototxt", roots=[], work=files / "other").restore(files / "0")
"""


def test_save_that_fails_half_way_leaves_nothing(files):
    """A limit on the size of files makes a real write fail, in the weights, then in the state."""
    for name in ("work", "0", "other"):
        (files / name).mkdir()
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(files)], check=True, text=True,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}, timeout=60,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"no snapshot written to {files}: ")
        assert "File too large" in line


def test_weights_file_is_where_it_begins(files):
    first = load(files, "a")
    folder = saved(first, files / "0")
    second = load(files, "b", seed=9, weights=folder / MODEL)
    assert np.array_equal(second.weights, first.weights)


def test_net_is_found_in_the_roots_before_the_solvers_folder(files, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "net.prototxt").write_text(NET.replace("num_output: 2", "num_output: 5"))
    work = files / "work"
    work.mkdir()
    engine = Engine(files / "solver.prototxt", roots=[tmp_path / "none", root], work=work)
    assert engine.layout.entries[-1] == ("Q_out/1", (5,))


def test_test_nets_are_not_made(files):
    text = SOLVER_TEXT + 'test_net: "nothing.prototxt" test_iter: 1 test_interval: 5'
    (files / "solver.prototxt").write_text(text)
    load(files)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("solver.prototxt", None, "solver.prototxt: No such file"),
        ("solver.prototxt", "base_lr: x", "solver.prototxt: 1:10"),
        ("solver.prototxt", 'type: "Adam"', "give the network's file"),
        ("solver.prototxt", 'net: "nothing.prototxt"', "net 'nothing.prototxt' is in none of"),
        ("solver.prototxt", SOLVER_TEXT.replace("Adam", "Eve"), "Eve"),
        ("net.prototxt", "layer {", "net.prototxt"),
        ("net.prototxt", NET.replace('bottom: "fc1"', 'bottom: "fc9"'), "fc9"),
        ("net.prototxt", "\xff", "net.prototxt"),
        ("net.prototxt", NET[: NET.index('layer { name: "fc1"')], "no learnable parameters"),
    ],
)  # fmt: skip
def test_mistake_in_a_prototxt_names_file_and_fault(files, name, text, message):
    if text is None:
        (files / name).unlink()
    else:
        (files / name).write_text(text, encoding="latin-1")
    with pytest.raises(UserMistake, match=message):
        load(files)


def test_weights_of_which_nothing_matches_are_a_mistake(files):
    message = caffe_pb2.NetParameter()
    layer = message.layer.add(name="other")
    layer.blobs.add().data.extend([1.0])
    (files / "w.caffemodel").write_bytes(message.SerializeToString())
    with pytest.raises(UserMistake, match=r"nothing in it matches the net.*other/0.*fc1/0"):
        load(files, weights=files / "w.caffemodel")


def test_weights_of_the_oldest_form_are_found(files):
    message = caffe_pb2.NetParameter()
    layer = message.layers.add().layer
    layer.name, layer.type = "fc1", "innerproduct"
    for shape in ((1, 1, 4, 3), (1, 1, 1, 4)):
        blob = layer.blobs.add(num=shape[0], channels=shape[1], height=shape[2], width=shape[3])
        blob.data.extend([7.0] * int(np.prod(shape)))
    (files / "w.caffemodel").write_bytes(message.SerializeToString())
    assert (load(files, weights=files / "w.caffemodel").weights[:16] == 7).all()


def test_weights_of_another_shape_are_a_mistake(files):
    message = caffe_pb2.NetParameter()
    layer = message.layer.add(name="fc1")
    for _ in range(2):
        blob = layer.blobs.add()
        blob.shape.dim.extend([7])
        blob.data.extend([1.0] * 7)
    (files / "w.caffemodel").write_bytes(message.SerializeToString())
    with pytest.raises(UserMistake, match="--weights"):
        load(files, weights=files / "w.caffemodel")


@pytest.mark.parametrize("content", [None, b"\xff" * 40])
def test_weights_that_cannot_be_read_are_a_mistake(files, content):
    if content is not None:
        (files / "w.caffemodel").write_bytes(content)
    with pytest.raises(UserMistake, match="--weights"):
        load(files, weights=files / "w.caffemodel")


def test_snapshot_of_another_solver_type_does_not_fit(files):
    folder = saved(load(files, "a"), files / "0")
    (files / "solver.prototxt").write_text('net: "net.prototxt" type: "SGD" lr_policy: "fixed"')
    with pytest.raises(SnapshotFailed, match="does not fit"):
        load(files, "b").restore(folder)


@pytest.mark.parametrize("name", [STATE, MODEL])
@pytest.mark.parametrize("content", [None, b"\xff" * 40])
def test_snapshot_that_cannot_be_read_does_not_fit(files, name, content):
    engine = load(files)
    folder = saved(engine, files / "0")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(SnapshotFailed, match="does not fit"):
        engine.restore(folder)


def test_target_of_another_net_does_not_fit(files):
    folder = saved(load(files, "a"), files / "0")
    (files / "net.prototxt").write_text(NET.replace("num_output: 2", "num_output: 3"))
    with pytest.raises(SnapshotFailed, match="does not fit"):
        load(files, "b").read_target(folder)


def test_snapshot_that_cannot_be_written_fails_as_one(files):
    engine = load(files)
    with pytest.raises(SnapshotFailed):
        engine.save(files / "nowhere")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("dim: 2 dim: 3", "dim: 9 dim: 3"), True),
        (('name: "tiny"', 'name: "other"  # and a comment'), True),
        (("num_output: 2", "num_output: 3"), False),
        (("lr_mult: 0", "lr_mult: 1"), False),
    ],
)
def test_nets_are_compared_by_what_they_compute(files, change, same):
    folder = saved(load(files, "a"), files / "0")
    (files / "net.prototxt").write_text(NET.replace(*change))
    assert load(files, "b").has_net_of(folder) is same
