"""The metrics of a run as Parquet."""

import pyarrow.parquet as pq
import pytest

from barista.driver import tables
from barista.driver.run_folder import RunFolder

WORKER = {
    "worker": "a-0", "round": 1, "partition": 0, "applied": 3, "steps": 12, "loss_mean": 0.5,
    "return_mean": None, "staleness_mean": 1, "restarts": ["it died"],
}  # fmt: skip
ROW = {"round": 1, "time": 7.5, "steps": 24, "loss": None, "staleness_mean": 1, "alarms": []}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run")


def read(folder, table):
    return pq.read_table(folder.path / table)


def test_a_round_is_a_row_and_each_worker_in_it_another(folder):
    folder.append({**ROW, "workers": [WORKER, {**WORKER, "worker": "b-0"}]})
    (row,) = read(folder, tables.ROUNDS).to_pylist()
    assert (row["round"], row["time"], row["loss"], row["staleness_mean"]) == (1, 7.5, None, 1.0)
    rows = read(folder, tables.WORKERS).to_pylist()
    assert [(each["worker"], each["applied"], each["restarts"]) for each in rows] == [
        ("a-0", 3, ["it died"]), ("b-0", 3, ["it died"])
    ]  # fmt: skip
    assert rows[0]["return_mean"] is None


def test_every_file_has_the_same_types(folder):
    """Also where a round has no workers, and every value is missing."""
    folder.append({"round": 1})
    score = {"version": 9, "steps": 5, "episodes": 8, "return_mean": 1.0, "return_se": None}
    folder.append({**ROW, "round": 2, "evaluation": score, "workers": [{"worker": "a-0"}]})
    for table, schema in tables.SCHEMAS.items():
        files = sorted((folder.path / table).iterdir())
        assert [file.name for file in files] == ["round-000001.parquet", "round-000002.parquet"]
        assert all(pq.read_schema(file).equals(schema) for file in files)
    assert read(folder, tables.ROUNDS)["evaluation"].to_pylist() == [None, score]
    # A worker that had no row of its own is in the round all the same.
    assert read(folder, tables.WORKERS).to_pylist()[0]["round"] == 2


def test_a_resumed_run_has_all_rounds_once(folder, tmp_path):
    for number in (1, 2, 3):
        folder.append({**ROW, "round": number, "workers": [{**WORKER, "round": number}]})
    resumed = RunFolder.create(tmp_path / "resumed")
    resumed.append(*folder.metrics()[:2])
    resumed.append({**ROW, "round": 3, "workers": [WORKER]})
    resumed.append({**ROW, "round": 3, "workers": [WORKER]})
    for table in tables.SCHEMAS:
        assert sorted(read(resumed, table)["round"].to_pylist()) == [1, 2, 3]


def test_a_file_that_cannot_be_written_leaves_the_table_as_it_was(folder):
    folder.append({**ROW, "workers": []})
    (folder.path / tables.ROUNDS / "_round-000002.parquet").mkdir()  # in the way
    with pytest.raises(OSError, match="round-000002"):
        folder.append({**ROW, "round": 2, "workers": []})
    assert read(folder, tables.ROUNDS)["round"].to_pylist() == [1]
