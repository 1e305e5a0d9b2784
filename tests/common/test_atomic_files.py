"""Atomic file writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssd.common import atomic_files
from ssd.common.atomic_files import remove_partial_files, write_atomically


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_write_is_flushed(tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr(atomic_files, "flush", flushed.append)
    write_atomically(tmp_path / "new" / "a", lambda path: path.write_bytes(b"new"), durable=durable)
    assert (tmp_path / "new" / "a").read_bytes() == b"new"
    assert len(flushed) == (2 if durable else 0)  # the file and its folder
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.ckpt.123.partial", "a.ckpt", ".hidden", "b.partial.mp4"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == {"a.ckpt", ".hidden", "b.partial.mp4"}
