"""The journal: whatever byte it stops at, nothing before is lost."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmorph.errors import ModelError
from onnxmorph.zoo.journal import Journal, read_entries

TEXTS = st.text(max_size=8)
EVENTS = st.lists(st.tuples(st.sampled_from(["made", "end", "dropped", "run", "closed"]), TEXTS, TEXTS), max_size=8)


def _write(path: Path, events: list[tuple[str, str, str]]) -> list[int]:
    """Writes a journal and gives its length after each entry."""
    lengths = []
    with Journal(path) as journal:
        for event, output, value in events:
            about = {"run": output} if event in ("run", "closed") else {"output": output, "value": value}
            journal.append(event, **about)
            lengths.append(path.stat().st_size)
    return lengths


def _state(journal: Journal) -> tuple[Any, ...]:
    return journal.ended, journal.pending, journal.open_runs


@settings(max_examples=40, deadline=None)  # each writes to the disk several times, and waits for it
@given(events=EVENTS, data=st.data())
def test_cut_at_any_byte_a_journal_knows_all_entries_before_and_takes_more(
    events: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, cut, expected = (Path(folder, name) for name in ("whole", "cut", "expected"))
        lengths = _write(whole, events)
        end = data.draw(st.integers(0, lengths[-1] if lengths else 0))
        cut.write_bytes(whole.read_bytes()[:end])
        # An entry that only lacks its line's end is whole.
        kept = sum(length - 1 <= end for length in lengths)
        _write(expected, events[:kept])
        with Journal(expected) as before, Journal(cut) as after:
            assert _state(after) == _state(before)
            after.append("end", output="x", value="new")
        with Journal(cut, read_only=True) as again:
            assert again.ended["x"]["value"] == "new"
            assert {**again.ended, "x": None} == {**before.ended, "x": None}


@given(st.lists(st.binary(max_size=30), max_size=5))
def test_garbage_between_entries_is_passed_over(lines: list[bytes]) -> None:
    good = b'{"event": "end", "output": "a"}'
    entries = read_entries(b"\n".join([good, *lines, good]))
    assert entries[0] == entries[-1] == {"event": "end", "output": "a"}


def test_a_made_waits_until_its_end(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        journal.append("made", output="a", files=[1])
        assert journal.pending["a"]["files"] == [1] and not journal.ended
        journal.append("end", output="a", files=[1])
        assert not journal.pending and journal.ended["a"]["files"] == [1]


def test_reading_alone_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path, read_only=True) as journal:
        assert not journal.ended
    assert not path.exists()
    path.write_bytes(b'{"event":"end","output":"a"}\n{"torn')
    with Journal(path, read_only=True) as journal:
        assert set(journal.ended) == {"a"}
    assert path.read_bytes().endswith(b'{"torn')


def test_a_folder_in_its_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be opened"):
        Journal(tmp_path)


def test_an_entry_that_a_full_disk_tore_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 30:
            return write(descriptor, bytes(data[:5]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(tmp_path / "journal") as journal:
        journal.append("end", output="a")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ModelError, match="No space left"):
            journal.append("end", output="b" * 8)
        monkeypatch.undo()
        assert set(journal.ended) == {"a"}
        journal.append("end", output="c")
    with Journal(tmp_path / "journal") as journal:
        assert set(journal.ended) == {"a", "c"}
