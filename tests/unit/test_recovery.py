"""Killed anywhere, a server goes on with what was acknowledged, or says what of it is gone."""

import shutil

import numpy as np
import pytest
from param_server.errors import EpochChanged, JournalFailed, SnapshotFailed
from param_server.journal import segment_path, segments
from param_server.recovery import new_epoch
from param_server.snapshot import by_age

from tests.lives import Life, write_model


@pytest.fixture
def lives(tmp_path):
    """Begin lives in one folder; each is over when the next begins."""
    write_model(tmp_path)
    begun = []

    def begin(*, resume=None, **options):
        if begun:
            begun[-1].kill()
        if resume is not None:
            options["sequences"] = begun[-1].sequences
        begun.append(Life(tmp_path, resume=resume, **options))
        return begun[-1]

    yield begin
    begun[-1].kill()


def newest(life):
    return by_age(life.folder.path)[0][1]


def damage(path):
    (path / "model.caffemodel").write_bytes(b"damaged")


def test_acknowledged_pushes_are_there_after_a_kill(lives, tmp_path):
    life = lives()
    for worker in (0, 1, 0):
        life.push(worker)
    again = lives(resume=tmp_path)
    assert again.weights() == [1, 1, 1, 0]
    assert (again.store.version, again.store.durable_version) == (3, 3)
    assert again.store.counters().steps == 12
    assert again.store.epoch > life.store.epoch
    assert again.resumed.sentence == (
        f"resumed at version 3 from {tmp_path}/snapshots/0: 12 steps, 0 episodes; "
        "changes done again from its journal: 3; nothing acknowledged is lost"
    )
    assert again.resumed.status() == {
        "path": f"{tmp_path}/snapshots/0", "version": 3, "replayed": 3, "lost_updates": 0,
    }  # fmt: skip


def test_in_mode_interval_the_restart_says_how_many_are_gone(lives, tmp_path):
    life = lives(journalled=False)
    life.push()
    life.snapshot()
    life.push()
    life.push(1)
    again = lives(resume=tmp_path, journalled=False)
    assert again.weights() == [1, 0, 0, 0]
    assert again.resumed.sentence.endswith("; 2 acknowledged updates are gone")
    assert again.resumed.lost_updates == 2
    once_more = lives(resume=tmp_path, journalled=False)
    assert once_more.resumed.lost_updates == 0  # those are gone already


def test_after_a_clean_stop_nothing_is_lost(lives, tmp_path):
    life = lives(journalled=False)
    life.push()
    life.snapshot()
    again = lives(resume=tmp_path, journalled=False)
    assert again.resumed.sentence.endswith("0 episodes; nothing acknowledged is lost")


def test_rejected_pushes_that_are_gone_are_told(lives, tmp_path):
    life = lives(journalled=False)
    life.push()
    life.push(version=99)
    again = lives(resume=tmp_path, journalled=False)
    assert again.resumed.sentence.endswith("1 acknowledged update and 1 push without one are gone")


def test_without_a_progress_file_nobody_knows(lives, tmp_path):
    lives(journalled=False)
    (tmp_path / "snapshots/progress").unlink()
    again = lives(resume=tmp_path, journalled=False)
    assert again.resumed.lost_updates is None
    assert "whether anything came after it is not known" in again.resumed.sentence


def test_clear_that_is_gone_is_told(lives, tmp_path):
    life = lives(journalled=False)
    life.push()
    life.snapshot()
    life.clear()
    life.push()
    life.push()
    again = lives(resume=tmp_path, journalled=False)
    assert again.weights() == [1, 0, 0, 0]
    assert "clearing the model, and updates after it (2), are gone" in again.resumed.sentence


def test_clear_is_done_again_with_the_weights_of_the_first_life(tmp_path):
    """Without a seed each life begins with other weights; version 0 is the first one's."""
    solver = write_model(tmp_path)
    net = tmp_path / "train_val.prototxt"
    net.write_text(net.read_text().replace("false", 'false weight_filler { type: "xavier" }'))
    assert solver.exists()
    life = Life(tmp_path)
    begin = life.weights()
    life.push()
    life.clear()
    life.push(1)
    expected = life.weights()
    life.kill()
    again = Life(tmp_path, resume=tmp_path)
    assert again.weights() == expected
    again.clear()
    assert again.weights() == begin
    again.kill()


def test_repeat_across_a_restart_is_recognised(lives, tmp_path):
    """Its answer was lost with the server; it is in the journal, or in the snapshot."""
    life = lives()
    life.push(0, sequence=1)
    life.snapshot()
    life.push(1, sequence=1)
    epoch = life.store.epoch
    again = lives(resume=tmp_path)
    for worker in (0, 1):
        answer = again.push(worker, sequence=1, epoch=epoch, version=0)
        assert (answer.status, answer.reason) == ("duplicate", "applied")
    assert again.weights() == [1, 0, 1, 0]
    with pytest.raises(EpochChanged):
        again.push(0, sequence=2, epoch=epoch)


def test_push_that_was_not_acknowledged_may_be_there_but_once(lives, tmp_path):
    life = lives()
    life.push(0, acknowledge=False)
    again = lives(resume=tmp_path)
    assert again.weights() == [1, 0, 0, 0]
    assert again.push(0, sequence=1, epoch=life.store.epoch).status == "duplicate"
    assert again.weights() == [1, 0, 0, 0]


def test_adam_goes_on_bit_for_bit_from_snapshot_and_journal(tmp_path):
    weights = {}
    for name, kills in (("straight", ()), ("killed", (2, 5))):
        (tmp_path / name).mkdir()
        solver = write_model(tmp_path / name)
        solver.write_text(solver.read_text().replace('"SGD"', '"Adam" momentum: 0.9'))
        life = Life(tmp_path / name)
        rng = np.random.default_rng(0)
        for number in range(8):
            if number in kills:
                life.kill()
                life = Life(tmp_path / name, resume=tmp_path / name)
            gradient = rng.normal(size=4).astype(np.float32)
            life.push_gradient(gradient, 0, number + 1)
        weights[name] = life.weights()
        life.kill()
    assert weights["killed"] == weights["straight"]


@pytest.mark.parametrize("is_in_snapshot", [True, False])
def test_gathered_part_of_an_update_is_restored(tmp_path, is_in_snapshot):
    write_model(tmp_path, more="iter_size: 2")
    life = Life(tmp_path)
    assert life.push(0).status == "gathered"
    if is_in_snapshot:
        life.snapshot()
    life.kill()
    again = Life(tmp_path, resume=tmp_path)
    assert again.weights() == [0, 0, 0, 0]
    assert again.resumed.replayed == (not is_in_snapshot)
    assert again.push(1).status == "applied"
    assert again.weights() == [0.5, 0, 0.5, 0]
    again.kill()


def test_gathered_pushes_are_told_apart_when_the_rule_has_changed(tmp_path):
    solver = write_model(tmp_path, more="iter_size: 2")
    life = Life(tmp_path)
    life.push(0)
    life.kill()
    solver.write_text(solver.read_text().replace("iter_size: 2", ""))
    again = Life(tmp_path, resume=tmp_path)
    assert again.weights() == [0, 0, 0, 0]
    assert "the journal does not fit the snapshot" in again.resumed.warnings[0]
    assert "0 acknowledged updates and 1 push without one is gone" in again.resumed.sentence
    again.kill()


def test_damaged_snapshot_is_passed_over_and_nothing_is_lost(lives, tmp_path):
    life = lives()
    life.push()
    life.snapshot()
    life.push(1)
    damage(newest(life))
    again = lives(resume=tmp_path)
    assert again.weights() == [1, 0, 1, 0]
    (warning,) = again.resumed.warnings
    assert "snapshots/1 is damaged" in warning
    assert again.resumed.lost_updates == 0


def test_damaged_first_snapshot_of_a_life_is_survived(lives, tmp_path):
    """The journal of the life before leads on to that of the damaged one's."""
    life = lives()
    life.push()
    life = lives(resume=tmp_path)
    life.push(1)
    life = lives(resume=tmp_path)
    life.push()
    damage(newest(life))
    again = lives(resume=tmp_path)
    assert again.weights() == [1, 1, 1, 0]
    assert again.resumed.lost_updates == 0


def test_in_mode_interval_a_damaged_snapshot_costs_what_came_after_the_one_before(lives, tmp_path):
    life = lives(journalled=False)
    for _ in range(3):
        life.push()
        life.snapshot()
    life.push()
    damage(newest(life))
    again = lives(resume=tmp_path, journalled=False)
    assert (again.store.version, again.resumed.lost_updates) == (2, 2)


def test_damaged_journal_is_told_and_read_as_far_as_it_goes(lives, tmp_path):
    life = lives()
    for _ in range(3):
        life.push()
    path = segment_path(life.folder.path, segments(life.folder.path)[-1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = lives(resume=tmp_path)
    assert again.store.version == 2
    assert again.resumed.lost_updates == 1
    (warning,) = again.resumed.warnings
    assert f"{path.name} at byte " in warning
    again.push(1)
    assert lives(resume=tmp_path).store.version == 3


def test_older_snapshot_that_is_named_is_taken_as_it_is(lives, tmp_path):
    life = lives()
    for _ in range(2):
        life.push()
        life.snapshot()
    life.push(1)
    again = lives(resume=tmp_path / "snapshots/1")
    assert again.weights() == [1, 0, 0, 0]
    assert again.resumed.sentence.endswith("newer snapshots there are left aside: 1")
    again.push(1)
    # What was left aside is not mixed in later.
    assert lives(resume=tmp_path).weights() == [1, 0, 0, 1]


def test_leftover_journal_of_another_run_is_not_replayed(lives, tmp_path):
    life = lives()
    life.push()
    fresh = lives()
    fresh.push(1)
    assert fresh.weights() == [0, 0, 1, 0]
    assert lives(resume=tmp_path).weights() == [0, 0, 1, 0]


def test_journal_that_was_put_there_is_not_replayed(lives, tmp_path):
    life = lives()
    life.push()
    shutil.copy(segment_path(life.folder.path, 1), tmp_path / "other.log")
    fresh = lives(epoch=life.store.epoch + 10**9)
    number = segments(fresh.folder.path)[-1]
    shutil.copy(tmp_path / "other.log", segment_path(fresh.folder.path, number))
    again = lives(resume=tmp_path)
    assert again.weights() == [0, 0, 0, 0]
    assert "does not continue what was before it" in again.resumed.warnings[0]


def test_resumed_elsewhere_begins_a_journal_of_its_own(lives, tmp_path):
    life = lives()
    life.push()
    (tmp_path / "b").mkdir()
    write_model(tmp_path / "b")
    other = Life(tmp_path / "b", resume=tmp_path)
    other.push(1)
    other.kill()
    again = Life(tmp_path / "b", resume=tmp_path / "b")
    assert again.weights() == [1, 0, 1, 0]
    again.kill()


def test_mode_may_change_between_lives(lives, tmp_path):
    life = lives()
    life.push()
    life = lives(resume=tmp_path, journalled=False)
    life.push(1)
    life.snapshot()
    assert segments(life.folder.path) == []  # two snapshots that need none
    life = lives(resume=tmp_path)
    life.push()
    assert lives(resume=tmp_path).weights() == [1, 1, 1, 0]


def test_segments_stay_for_two_undamaged_snapshots(lives):
    life = lives()
    for number in range(2, 6):
        life.push()
        life.snapshot()
        assert segments(life.folder.path) == [number - 1, number]
    damage(newest(life))
    life.push()
    life.snapshot()
    assert segments(life.folder.path) == [4, 5, 6]


def test_snapshot_fails_where_its_journal_cannot_begin(lives, monkeypatch):
    life = lives()

    def failing():
        raise JournalFailed("cannot begin the journal: No space left on device")

    monkeypatch.setattr(life.journal, "rotate", failing)
    with pytest.raises(
        SnapshotFailed, match=r"no snapshot written to .*: cannot begin the journal"
    ):
        life.snapshot()


def test_new_epoch_is_always_a_later_one():
    now = new_epoch(0)
    assert now > 1_600_000_000_000
    assert new_epoch(now + 10**6) == now + 10**6 + 1
