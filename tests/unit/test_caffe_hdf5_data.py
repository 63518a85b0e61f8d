import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from caffe.gradient_check import net_from_text
from hypothesis import given, settings
from hypothesis import strategies as st

import caffe


def write(path, rows, start=0, **others):
    """Write rows numbered from start as `data` [rows, 2, 3] and `label` [rows]."""
    numbers = np.arange(start, start + rows, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["data"] = numbers[:, None, None] * np.ones((2, 3), np.float32)
        file["label"] = numbers
        for name, value in others.items():
            del file[name]
            if value is not None:
                file[name] = value


def make(folder, batch_size=2, extra="", param=""):
    return net_from_text(
        f"""layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" {extra}
        hdf5_data_param {{ source: "{folder}/list" batch_size: {batch_size} {param} }} }}"""
    )


@pytest.fixture
def files(tmp_path):
    for index, (rows, start) in enumerate([(3, 0), (1, 3), (4, 4)]):
        write(tmp_path / f"{index}.h5", rows, start)
    (tmp_path / "list").write_text("".join(f"{tmp_path}/{i}.h5\n" for i in range(3)))
    return tmp_path


def labels(net, times):
    return [net.forward()["label"].tolist() for _ in range(times)]


def test_rows_run_over_from_file_to_file_and_round(files):
    net = make(files, batch_size=3)
    assert net.blobs["data"].data.shape == (3, 2, 3)
    assert net.blobs["label"].data.shape == (3,)
    assert labels(net, 4) == [[0, 1, 2], [3, 4, 5], [6, 7, 0], [1, 2, 3]]
    np.testing.assert_array_equal(
        net.blobs["data"].data, np.float32([1, 2, 3])[:, None, None] * np.ones((2, 3))
    )


def test_a_batch_may_be_longer_than_all_files(files):
    assert labels(make(files, batch_size=10), 1) == [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1]]


def caffes_rows(sizes, batch_size, batches):
    """Return the rows of each batch, found row by row as Caffe does."""
    file = row = 0
    result = []
    for _ in range(batches):
        batch = []
        for _ in range(batch_size):
            batch.append(sum(sizes[:file]) + row)
            row += 1
            if row == sizes[file]:
                file, row = (file + 1) % len(sizes), 0
        result.append(batch)
    return result


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 9))
def test_the_order_is_caffes(sizes, batch_size):
    with tempfile.TemporaryDirectory() as folder:
        for index, size in enumerate(sizes):
            write(Path(folder, f"{index}.h5"), size, sum(sizes[:index]))
        names = " ".join(f"{folder}/{index}.h5" for index in range(len(sizes)))
        Path(folder, "list").write_text(names)
        net = make(folder, batch_size)
        assert labels(net, 5) == caffes_rows(sizes, batch_size, 5)


def test_shuffled_rows_are_all_there_once_in_every_round(files):
    caffe.set_random_seed(1)
    net = make(files, batch_size=8, param="shuffle: true")
    rounds = labels(net, 20)
    assert all(sorted(rows) == list(range(8)) for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) > 10
    # Rows are shuffled within their file, and the files among each other.
    assert {tuple(rows)[:1] for rows in rounds} >= {(0,), (3,), (4,)}
    together = [sorted(rows.index(row) for row in (4, 5, 6, 7)) for rows in rounds]
    assert all(places[3] - places[0] == 3 for places in together)
    caffe.set_random_seed(1)
    assert labels(make(files, batch_size=8, param="shuffle: true"), 20) == rounds


def test_one_file_is_shuffled_anew_in_every_round(files):
    (files / "list").write_text(f"{files}/2.h5")
    rounds = labels(make(files, batch_size=4, param="shuffle: true"), 20)
    assert all(sorted(rows) == [4, 5, 6, 7] for rows in rounds)
    assert len({tuple(rows) for rows in rounds}) > 5


def test_paths_are_relative_to_the_working_folder(files, monkeypatch):
    monkeypatch.chdir(files)
    Path("list").write_text("  0.h5\r\n\n\t2.h5 ")
    net = net_from_text(
        'layer { name: "d" type: "HDF5Data" top: "label" '
        'hdf5_data_param { source: "list" batch_size: 7 } }'
    )
    assert labels(net, 1) == [[0, 1, 2, 4, 5, 6, 7]]


def test_integers_and_doubles_are_numbers_too(files):
    write(files / "0.h5", 3, data=np.ones((3, 2, 3)), label=np.int64([7, 8, 9]))
    assert labels(make(files), 1) == [[7, 8]]


def test_a_net_trains_on_it(files):
    net = net_from_text(
        f"""layer {{ name: "d" type: "HDF5Data" top: "data" top: "label"
          hdf5_data_param {{ source: "{files}/list" batch_size: 2 }} }}
        layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "y"
          inner_product_param {{ num_output: 1 bias_term: false }} }}
        layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "label" top: "loss" }}"""
    )
    assert net.forward()["loss"] == 0.25  # labels 0 and 1, weights 0
    net.backward()
    assert net.params["ip"][0].diff.tolist() == [[-0.5] * 6]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": None}, "'data', named by a top, is no dataset"),
        ({"label": np.array([b"a", b"b", b"c"])}, "'label', named by a top, is no dataset"),
        ({"label": np.ones(2)}, "'label' has 2 rows, but 'data' 3"),
        ({"label": np.float32(1)}, "'label' has no rows"),
        ({"data": np.ones((0, 2, 3)), "label": np.ones(0)}, "'data' has no rows"),
        ({"label": h5py.ExternalLink("1.h5", "/label")}, "is a link"),
        ({"label": np.array([True] * 3)}, "is no dataset of numbers"),
    ],
)
def test_files_that_do_not_suit_are_refused(files, change, message):
    write(files / "0.h5", 3, **change)
    with pytest.raises(caffe.CaffeError, match=f"layer 'd' .*0.h5.*{message}"):
        make(files)


def test_a_later_file_with_other_rows_is_refused_when_its_turn_comes(files):
    write(files / "1.h5", 1, data=np.ones((1, 3, 2)))
    net = make(files)
    net.forward()
    for _ in range(2):  # it stays that file's turn
        with pytest.raises(caffe.CaffeError, match=r"1.h5: a row of 'data' .*\[3, 2\].*\[2, 3\]"):
            net.forward()
    write(files / "1.h5", 1, start=3)
    assert labels(net, 1) == [[3, 4]]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("", "lists no files"),
        ("\n \n", "lists no files"),
        ("/nope.h5", "Could not open file /nope.h5"),
        ("{folder}/list", "no HDF5 file"),
        ("{folder}", "it is a directory"),
        ("nul\0", "Could not open"),
        ("\x89\xff", "Could not open"),
    ],
)
def test_lists_of_nothing_are_refused(files, listed, message):
    (files / "list").write_text(listed.format(folder=files))
    with pytest.raises(caffe.CaffeError, match=f"layer 'd'.*{message}") as error:
        make(files)
    assert "\n" not in str(error.value)


def test_settings_that_make_no_sense_are_refused(files):
    with pytest.raises(caffe.CaffeError, match="batch_size must be positive"):
        make(files, batch_size=0)
    with pytest.raises(caffe.CaffeError, match="transform"):
        make(files, extra="transform_param { scale: 2 }")
    (files / "list").unlink()
    with pytest.raises(caffe.CaffeError, match=r"layer 'd'.*Could not open file .*list"):
        make(files)


def test_a_file_that_claims_gigabytes_is_refused(files):
    with h5py.File(files / "0.h5", "w") as file:
        for name in ("data", "label"):
            file.create_dataset(name, (1 << 34,), "f4", chunks=(1 << 20,), compression="gzip")
    assert (files / "0.h5").stat().st_size < 10_000
    with pytest.raises(caffe.CaffeError, match="claims"):
        make(files)


@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        ("Data", "HDF5Data"),
        ("ImageData", "MemoryData"),
        ("WindowData", "Input"),
        ("HDF5Output", "h5py"),
    ],
)
def test_layers_that_read_or_write_other_files_say_what_to_use_instead(kind, instead):
    with pytest.raises(caffe.CaffeError, match=f"layer 'a': type {kind} .*{instead}"):
        net_from_text(f'layer {{ name: "a" type: "{kind}" top: "b" }}')
    assert kind not in caffe.layer_type_list()
    assert "HDF5Data" in caffe.layer_type_list()
