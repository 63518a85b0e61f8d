"""The folder of a run."""

import json
import os

import pytest

from barista.driver.run_folder import RunFolder, RunFolderError, bring, find_resume, logs_root


def test_metrics_come_back_in_order_without_a_torn_line(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.append({"round": 1})
    folder.append({"round": 2})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "los')
    assert folder.metrics() == [{"round": 1}, {"round": 2}]


def test_a_used_folder_is_refused(tmp_path):
    RunFolder.create(tmp_path / "run").append({})
    with pytest.raises(RunFolderError, match="is used already"):
        RunFolder.create(tmp_path / "run")


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot write"):
        RunFolder.create(tmp_path / "file" / "run")


def test_logs_follow_ddq_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    assert logs_root() == tmp_path / "logs"
    assert (tmp_path / "logs").is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_logs_are_one_line(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("DDQ_ROOT", str(tmp_path))
    with pytest.raises(RunFolderError, match="cannot write"):
        logs_root()


def test_a_run_that_came_to_nothing_leaves_nothing(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def earlier(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config({
        "agent": {"game": "ddq/Snake-v0", "n_step": 5}, "options": {"staleness": "ssp:2"},
    })  # fmt: skip
    snapshot = folder.snapshots / "100"
    snapshot.mkdir()
    (snapshot / "manifest.json").write_text(json.dumps({}))
    return folder


def test_resume_takes_a_run_or_one_of_its_snapshots(earlier):
    earlier.append({"round": 1})
    for given in (earlier.path, earlier.snapshots / "100"):
        resume = find_resume(str(given))
        assert resume.path == given.resolve()
        assert resume.files == earlier.path
        assert resume.config == {"game": "ddq/Snake-v0", "n_step": 5}
        assert resume.options == {"staleness": "ssp:2"}
        assert resume.metrics == [{"round": 1}]


@pytest.mark.parametrize(
    ("manifest", "config"), [({"game": "ddq/Snake-v0"}, {"game": "ddq/Snake-v0"}), ({}, {})]
)
def test_a_lone_snapshot_brings_its_game_and_its_files(tmp_path, manifest, config):
    snapshot = tmp_path / "elsewhere" / "100"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text(json.dumps(manifest))
    assert find_resume(str(snapshot)) == (snapshot, snapshot, config, {}, [])


def test_a_lone_snapshot_with_a_damaged_manifest_is_one_line(tmp_path):
    snapshot = tmp_path / "a" / "100"
    snapshot.mkdir(parents=True)
    (snapshot / "manifest.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        find_resume(str(snapshot))


def test_the_newest_snapshot_is_the_one_with_the_greatest_version(earlier):
    for name in ("99", "1000", ".tmp-5000"):
        (earlier.snapshots / name).mkdir()
    assert earlier.newest_snapshot() == earlier.snapshots / "1000"


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_what_cannot_be_resumed_is_one_line(tmp_path, kind):
    path = tmp_path / kind
    if kind == "empty":
        path.mkdir()
    with pytest.raises(RunFolderError, match="--resume"):
        find_resume(str(path))


def test_a_snapshot_of_another_folder_is_brought_once(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "100"
    elsewhere.mkdir(parents=True)
    (elsewhere / "manifest.json").write_text("1")
    here = RunFolder.create(tmp_path / "run").snapshots
    assert bring(elsewhere, here) == here / "100"
    (elsewhere / "manifest.json").write_text("2")
    assert bring(elsewhere, here) == here / "100"
    assert (here / "100" / "manifest.json").read_text() == "1"


def test_a_snapshot_that_cannot_be_brought_stays_where_it_is(tmp_path, monkeypatch):
    here = RunFolder.create(tmp_path / "run").snapshots
    of_another_host = tmp_path / "nowhere" / "100"
    assert bring(of_another_host, here) == of_another_host

    def full(source, target):
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("barista.driver.run_folder.shutil.copytree", full)
    of_another_host.mkdir(parents=True)
    assert bring(of_another_host, here) == of_another_host
    assert list(here.iterdir()) == []


def test_no_rounds_leave_no_metrics(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    folder.append()
    assert not (folder.path / "metrics.jsonl").exists()
