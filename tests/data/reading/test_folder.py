from __future__ import annotations

from pathlib import Path

import pytest

from ssd.data.reading.folder import FileTable, SourceFolder


def test_hidden_files_helpers_and_masks_are_not_seen(tmp_path: Path) -> None:
    for path in (
        *("a.jpg", "sub/b.PNG", "a.xml", "notes.txt"),
        *(".hidden.jpg", "._a.jpg", "._a.xml", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/a.xml", "Thumbs.db"),
        *(".idea/x.xml", "SegmentationClass/a.png", "masks/a.png"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    folder = SourceFolder(tmp_path)
    assert folder.images == ["a.jpg", "sub/b.PNG"]
    assert folder.files == ["a.xml", "notes.txt"]
    assert folder.with_suffix(".xml") == ["a.xml"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "a.jpg").touch()
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(store)
    (root / "again").symlink_to(root)
    assert SourceFolder(root).images == ["images/a.jpg"]


@pytest.mark.parametrize(
    ("written", "near", "found"),
    [
        ("0.jpg", "", ["JPEGImages/0.jpg"]),
        ("0", "Annotations/0.xml", ["JPEGImages/0.jpg"]),
        ("0.JPG", "", ["JPEGImages/0.jpg"]),
        ("images\\0.jpg", "", ["JPEGImages/0.jpg"]),
        ("my%20photo.jpg", "", ["JPEGImages/my photo.jpg"]),
        ("/home/me/JPEGImages/0.jpg", "", ["JPEGImages/0.jpg"]),
        ("7", "Annotations/cam1/7.xml", ["JPEGImages/cam1/7.jpg"]),
        ("cam2/7.jpg", "", ["JPEGImages/cam2/7.png"][:0]),
        ("7", "Annotations/cam2/7.xml", ["JPEGImages/cam2/7.png"]),
        ("both", "", ["JPEGImages/both.jpg", "JPEGImages/both.png"]),
        ("both.png", "", ["JPEGImages/both.png"]),
        ("absent.jpg", "", []),
        ("cafe\u0301.jpg", "", ["JPEGImages/caf\u00e9.jpg"]),
    ],
)
def test_the_file_that_a_name_means(written: str, near: str, found: list[str]) -> None:
    names = ["0.jpg", "my photo.jpg", "cam1/7.jpg", "cam2/7.png", "both.jpg", "both.png", "caf\u00e9.jpg"]
    table = FileTable([f"JPEGImages/{name}" for name in names])
    assert table.find(written, near=near) == found


def test_splits_are_not_mixed_up() -> None:
    table = FileTable(["train/7.jpg", "val/7.jpg"])
    assert table.find("7", near="train/7.xml") == ["train/7.jpg"]
    assert table.find("7", near="val/labels/7.txt") == ["val/7.jpg"]
    assert table.find("7", near="test/7.xml") == []
