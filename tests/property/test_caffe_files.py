"""Whatever is in a file: it is taken, or refused by a CaffeError of one line, at once and cheaply.

DDQ_FUZZ=20 tries twenty times as many files.
"""

import os
import resource
import time
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from caffe.layer import layer_types
from caffe.proto import caffe_pb2
from caffe.solver_state import _histories
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings

import caffe

TIMES = int(os.environ.get("DDQ_FUZZ", "1"))
SECONDS, GROWTH = 3, 256 << 10  # for a file; KiB for all files of a test

NET = """name: "fuzzed"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" param { lr_mult: 1 }
  convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "one" type: "InnerProduct" bottom: "c" top: "h" param { name: "w" }
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "two" type: "InnerProduct" bottom: "c" top: "k" param { name: "w" lr_mult: 2 }
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "sum" type: "Eltwise" bottom: "h" bottom: "k" top: "y"
  eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }
"""
OLD_NETS = (
    """input: "x" input_dim: 1 input_dim: 2 input_dim: 6 input_dim: 6
    layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" blobs_lr: 1 weight_decay: 0
      convolution_param { num_output: 2 kernel_size: 3 } }
    layers { type: POOLING bottom: "c" top: "p" pooling_param { pool: AVE kernel_size: 2 } }""",
    """input: "x" input_dim: 1 input_dim: 2 input_dim: 6 input_dim: 6
    layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }
    layers { layer { name: "c" type: "conv" num_output: 2 kernelsize: 3 biasterm: false
      weight_filler { type: "gaussian" std: 1 } } bottom: "p" top: "c" }""",
)
SOLVER = """base_lr: 0.01 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 momentum: 0.9
test_iter: 1 test_interval: 10 iter_size: 2 clip_gradients: 1.5 weight_decay: 0.1
regularization_type: "L1" random_seed: 3 """


class World(NamedTuple):
    folder: Path
    solvers: Any
    files: Any

    def __repr__(self):  # hypothesis shows it
        return "world"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a folder, a net and solvers, and valid files of theirs by kind."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "net").write_text(NET)
    prefix = f'net: "{folder}/net" snapshot_prefix: "{folder}/s" '
    texts = {
        "protobuf": f'{SOLVER} {prefix} type: "Adam"',
        "hdf5": f'{SOLVER} {prefix} type: "SGD" snapshot_format: HDF5',
    }
    solvers, files = {}, {}
    for form, text in texts.items():
        (folder / "solver").write_text(text)
        solvers[form] = solver = caffe.get_solver(str(folder / "solver"))
        solver.net.diff_arena[:] = 0.1
        solver.apply_update()
        solver.snapshot()
        suffix = ".h5" if form == "hdf5" else ""
        for kind in ("caffemodel", "solverstate"):
            files[kind, form] = [(folder / f"s_iter_1.{kind}{suffix}").read_bytes()]
    with h5py.File(folder / "late", "w", libver="latest") as late:  # the format's other versions
        for name, blobs in solver.net.params.items():
            for index, blob in enumerate(blobs):
                late.create_dataset(
                    f"data/{name}/{index}",
                    data=blob.data,
                    chunks=blob.data.shape,
                    compression="gzip",
                    fletcher32=True,
                )
    files["caffemodel", "hdf5"].append((folder / "late").read_bytes())
    files["prototxt"] = [text.encode() for text in (NET, *OLD_NETS)]
    files["solver"] = [text.encode() for text in texts.values()]
    return World(folder, solvers, files)


WHICH = st.integers(0, 2)  # of the valid files of a kind
# Where (a share of the length), how much is replaced, and by what.
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from([0, 0, 1, 1, 1, 2, 4, 8, 60]),
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from(
                [b"\0" * 8, b"\xff" * 8, b"\x7f", b"\x80" * 10, b"\xff" * 7 + b"\x7f", b"\2\0\0\0"]
            ),
        ),
    ),
    min_size=1,
    max_size=6,
)
VOCABULARY = r"""0 -1 1 2 3 100 33 1e30 1e-30 nan -inf 2147483647 4294967295 9223372036854775807
0x10 1e999 18446744073709551616 true "" "x" "\0" "\377" "a\nb" { } : [ ] # ' " - layer layers dim
name type bottom top shape pad group kernel_size num_output param loss_weight Split"""
WORDS = st.sampled_from(VOCABULARY.split())
TEXT_EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([0, 1, 1, 2, 9]), st.lists(WORDS, max_size=3)),
    max_size=6,
)


def edited(content, edits):
    for place, length, new in edits:
        at = int(place * len(content))
        content = content[:at] + new + content[at + length :]
    return content


def edited_text(content, edits):
    if not edits:
        return content
    words = content.replace(b":", b": ").split()
    return b" ".join(
        edited(words, [(*edit, [word.encode() for word in new]) for *edit, new in edits])
    )


def answer(action):
    """Return whether the action succeeds; fail unless it does, or is refused in one line."""
    started = time.perf_counter()
    try:
        action()
    except caffe.CaffeError as error:
        message = str(error)
        assert message.isprintable()
        assert 10 < len(message) < 1500
        return False
    finally:
        assert time.perf_counter() - started < SECONDS
    return True


@pytest.fixture(autouse=True)
def no_growth():
    """Fail when a test's files took much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH


def fuzz(examples):
    return settings(
        max_examples=examples * TIMES,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def state_of(solver):
    blobs = [blob.data for blobs in solver.net.params.values() for blob in blobs]
    return [*blobs, *(values for values, _ in _histories(solver))]


@pytest.mark.parametrize("form", ["protobuf", "hdf5"])
@pytest.mark.parametrize("kind", ["caffemodel", "solverstate"])
@fuzz(150)
@given(WHICH, EDITS | st.floats(0, 1))
def test_damaged_weights_and_states_are_taken_whole_or_refused(world, kind, form, which, damage):
    solver = world.solvers[form]
    path = world.folder / "s_iter_1.caffemodel"
    path.write_bytes(world.files["caffemodel", "protobuf"][0])  # what the states name
    Path(f"{path}.h5").write_bytes(world.files["caffemodel", "hdf5"][0])
    content = world.files[kind, form][which % len(world.files[kind, form])]
    cut = isinstance(damage, float)
    content = content[: int(damage * len(content))] if cut else edited(content, damage)
    damaged = world.folder / ("damaged.h5" if form == "hdf5" else "damaged")
    damaged.write_bytes(content)
    for values in state_of(solver):
        values[...] = 7  # unlike anything in the files
    solver.resume_at(7, 0)
    taken = answer(
        lambda: (solver.net.copy_from if kind == "caffemodel" else solver.restore)(str(damaged))
    )
    assert all(np.isfinite(values).all() for values in state_of(solver))
    if not taken:
        assert solver.iter == 7
        assert all((values == 7).all() for values in state_of(solver))


def small(net):
    return sum(blob.count for blob in net._blobs) < 1 << 20


@fuzz(200)
@given(WHICH, st.just([]) | EDITS, TEXT_EDITS)
def test_damaged_nets_are_built_or_refused(world, which, edits, text_edits):
    content = world.files["prototxt"][which % len(world.files["prototxt"])]
    path = world.folder / "damaged.prototxt"
    path.write_bytes(edited_text(edited(content, edits), text_edits))

    def run():
        net = caffe.Net(str(path), caffe.TRAIN)
        if small(net):
            net.forward()
            net.backward()

    answer(run)


@fuzz(150)
@given(WHICH, st.just([]) | EDITS, TEXT_EDITS)
def test_damaged_solvers_are_built_or_refused(world, which, edits, text_edits):
    content = world.files["solver"][which % len(world.files["solver"])]
    path = world.folder / "damaged.prototxt"
    path.write_bytes(edited_text(edited(content, edits), text_edits))
    answer(lambda: caffe.get_solver(str(path)))


# -- nets put together from the schema -----------------------------------------------------------

NUMBERS = st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5])
REALS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, 1e-9, 1e9, float("nan"), float("-inf")])
STRINGS = st.sampled_from(
    ["", "x", "w", "constant", "xavier", "msra", "bilinear", "gaussian", "a\0b"]
)


@st.composite
def messages(draw, descriptor, depth=0):
    """Draw a message with some of its fields set."""
    message = getattr(caffe_pb2, descriptor.name)()
    fields = st.sampled_from(list(descriptor.fields))
    fields = draw(st.lists(fields, max_size=4, unique_by=lambda field: field.name))
    for field in fields:
        kind = field.cpp_type
        if kind == field.CPPTYPE_MESSAGE:
            values = messages(field.message_type, depth + 1) if depth < 2 else st.nothing()
        elif kind == field.CPPTYPE_ENUM:
            values = st.sampled_from([value.number for value in field.enum_type.values])
        elif kind == field.CPPTYPE_BOOL:
            values = st.booleans()
        elif kind == field.CPPTYPE_STRING:
            values = STRINGS
        elif kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            values = REALS
        else:
            signed = kind in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
            values = NUMBERS | st.integers(-3, -1) if signed else NUMBERS
        if values.is_empty:
            continue
        if field.is_repeated:
            drawn = draw(st.lists(values, min_size=1, max_size=3))
            getattr(message, field.name).extend(drawn)
        elif kind == field.CPPTYPE_MESSAGE:
            getattr(message, field.name).CopyFrom(draw(values))
        else:
            setattr(message, field.name, draw(values))
    return message


PARAMS = {
    field.name.removesuffix("_param").replace("_", ""): field
    for field in caffe_pb2.LayerParameter.DESCRIPTOR.fields
    if field.name.endswith("_param")
}
OTHERS = {"deconvolution": "convolution", "im2col": "convolution", "lstm": "recurrent"}


@st.composite
def nets(draw):
    """Draw a net of inputs and layers that read whatever is there."""
    net = caffe_pb2.NetParameter()
    names = []
    for index in range(draw(st.integers(1, 3))):
        names.append(f"x{index}")
        shape = draw(st.lists(st.integers(1, 6), max_size=5))
        param = caffe_pb2.InputParameter(shape=[caffe_pb2.BlobShape(dim=shape)])
        net.layer.add(name=names[-1], type="Input", top=names[-1:], input_param=param)
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(sorted({*layer_types(), "Data", "Nope"} - {"Input"})))
        layer = net.layer.add(name=f"l{index}", type=kind)
        layer.bottom.extend(draw(st.lists(st.sampled_from(names), max_size=3)))
        tops = [f"t{index}{i}" for i in range(3)]
        layer.top.extend(draw(st.lists(st.sampled_from(names + tops), max_size=3)))
        names += [top for top in layer.top if top not in names]
        own = PARAMS.get(OTHERS.get(kind.lower(), kind.lower()))
        if own:
            getattr(layer, own.name).CopyFrom(draw(messages(own.message_type, 1)))
        if not draw(st.integers(0, 3)):
            layer.MergeFrom(draw(messages(caffe_pb2.LayerParameter.DESCRIPTOR)))
    net.force_backward = draw(st.booleans())
    return net


@fuzz(300)
@given(nets(), st.sampled_from([caffe.TRAIN, caffe.TEST]))
def test_any_net_of_the_schema_runs_or_is_refused(world, net, phase):
    path = world.folder / "schema.prototxt"
    path.write_text(text_format.MessageToString(net))

    def run():
        made = caffe.Net(str(path), phase)
        if small(made):
            made.forward()
            made.backward()
            made.save(str(world.folder / "w"))
            made.copy_from(str(world.folder / "w"))

    answer(run)
