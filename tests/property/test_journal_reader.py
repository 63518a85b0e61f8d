"""A journal that was cut off anywhere is a shorter journal; one that was changed says so."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from param_server import journal as journal_module
from param_server.journal import Journal, segment_path, segments
from param_server.journal_reader import Reading

POSITION = (7, 3)

payloads = st.one_of(
    st.none(), st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9)
)
entries = st.lists(
    st.tuples(
        st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=9), max_size=3),
        payloads,
        st.booleans(),  # whether a segment begins after it
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(autouse=True, scope="module")
def no_waiting():
    """What is on disk after a power cut is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module.os, "fdatasync", lambda file: None)
        patch.setattr(journal_module, "sync", lambda folder: None)
        yield


def write(folder, written):
    """Write records; return what reading them should give."""
    journal = Journal(folder, lambda: POSITION)
    journal.rotate()
    for record, values, rotates in written:
        journal.append(record, None if values is None else np.array(values, np.float32))
        if rotates:
            journal.rotate()
    journal.close()
    return [(record, values) for record, values, _ in written]


def read(folder):
    """Return the records that are read, and what is said of the rest."""
    reading = Reading(folder, 1, POSITION)
    found = [(record, None if values is None else values.tolist()) for record, values in reading]
    assert (reading.end is None) == bool(reading.damage)
    return found, reading.damage


@settings(max_examples=50)
@given(written=entries)
def test_what_was_written_is_read(written):
    with tempfile.TemporaryDirectory() as name:
        expected = write(Path(name), written)
        assert read(Path(name)) == (expected, "")


@settings(max_examples=80)
@given(written=entries, data=st.data())
def test_any_end_of_the_last_segment_gives_the_first_records_and_no_word(written, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = write(folder, written)
        path = segment_path(folder, segments(folder)[-1])
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content)))
        zeros = data.draw(st.sampled_from([0, 1, 100]))
        path.write_bytes(content[:length] + bytes(zeros))
        found, damage = read(folder)
        assert found == expected[: len(found)]
        whole = len(segments(folder)) == 1 and not found and length < 100
        assert damage == "" or whole or zeros  # a first segment without its beginning is said


@settings(max_examples=80)
@given(written=entries, data=st.data())
def test_any_changed_bit_is_noticed(written, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = write(folder, written)
        path = segment_path(folder, data.draw(st.sampled_from(segments(folder))))
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        found, damage = read(folder)
        assert found == expected[: len(found)]
        assert f"{path.name} at byte " in damage


@settings(max_examples=50)
@given(written=entries, data=st.data())
def test_a_segment_cut_off_before_others_is_noticed(written, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, [*written, ({}, None, True), ({}, None, False)])
        numbers = segments(folder)
        path = segment_path(folder, data.draw(st.sampled_from(numbers[:-1])))
        content = path.read_bytes()
        path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        assert read(folder)[1]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_segment_that_is_missing_is_noticed(tmp_path, number):
    write(tmp_path, [({"at": 1}, None, True), ({"at": 2}, None, True), ({"at": 3}, None, False)])
    segment_path(tmp_path, number).unlink()
    found, damage = read(tmp_path)
    assert [record["at"] for record, _ in found] == list(range(1, number))
    # The last one's loss cannot be told from a journal that ends there.
    assert damage == (f"the journal is damaged: journal-{number}.log is missing; "
                      "what follows is not read" if number < 3 else "")  # fmt: skip


def test_segments_of_two_journals_are_not_mixed(tmp_path):
    """A row of segments is one journal's, and its first the snapshot's that names it."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [({"of": name}, None, True), ({"of": name}, None, False)])
    segment_path(tmp_path / "b", 2).rename(segment_path(tmp_path / "a", 2))
    found, damage = read(tmp_path / "a")
    assert [record["of"] for record, _ in found] == ["a"]
    assert "journal-2.log does not continue" in damage
    other = Reading(tmp_path / "a", 1, (8, 3))
    assert list(other) == []
    assert "journal-1.log does not continue" in other.damage


def test_a_segment_that_a_kill_left_empty_is_passed_over(tmp_path):
    write(tmp_path, [({"at": 1}, None, False)])
    segment_path(tmp_path, 2).touch()
    reading = Reading(tmp_path, 1, POSITION)
    list(reading)
    after = Journal(tmp_path, lambda: (9, 4))
    after.follow(reading.end)
    assert after.rotate() == 3
    after.append({"at": 2}, None)
    after.close()
    found, damage = read(tmp_path)
    assert ([record["at"] for record, _ in found], damage) == ([1, 2], "")


def test_another_format_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("param_server.journal.FORMAT", 2)
    write(tmp_path, [({}, None, False)])
    assert "journal-1.log has format 2, not 1" in read(tmp_path)[1]


def test_zeros_behind_the_last_record_are_no_damage(tmp_path):
    """A machine that went down had made room for more."""
    write(tmp_path, [({"at": 1}, None, False)])
    with segment_path(tmp_path, 1).open("ab") as file:
        file.write(bytes(3 << 20))
    found, damage = read(tmp_path)
    assert ([record["at"] for record, _ in found], damage) == ([1], "")
