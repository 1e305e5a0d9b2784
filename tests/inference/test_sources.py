"""Resolving `source` to files, cameras and downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
from media import write_image, write_video

from ssd.common.errors import ConfigError
from ssd.inference.sources import count_frames, find_media


def find(source: Path | str, downloads: Path = Path()) -> list[tuple[str, str]]:
    """(path, name in the output)."""
    media = find_media(str(source), downloads=downloads)
    assert [medium.source for medium in media] == [str(medium.path) for medium in media]
    return [(Path(medium.path).as_posix(), medium.name.as_posix()) for medium in media]


def test_file(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a" / "cat.png")
    assert find(path) == [(path.as_posix(), "cat.png")]


def test_folder_is_searched_recursively_for_images(tmp_path: Path) -> None:
    inside = ["b.PNG", "a.jpg", "sub/deeper/c.JPEG", "sub/a.jpg"]
    for name in inside:
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    assert find(tmp_path) == [((tmp_path / name).as_posix(), name) for name in sorted(inside)]


def test_glob_is_expanded_in_order(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.jpg"):
        write_image(tmp_path / name)
    assert find(tmp_path / "*.png") == [((tmp_path / name).as_posix(), name) for name in ("a.png", "b.png")]


def test_images_of_the_same_name_keep_their_folders(tmp_path: Path) -> None:
    for name in ("left/x.png", "right/x.png", "right/deep/x.png"):
        write_image(tmp_path / name)
    assert [name for _, name in find(tmp_path / "*" / "x.png")] == ["left/x.png", "right/x.png"]
    assert [name for _, name in find(tmp_path / "r*" / "**" / "*.png")] == ["right/deep/x.png", "right/x.png"]
    assert [name for _, name in find(tmp_path / "right" / "**" / "*.png")] == ["deep/x.png", "x.png"]


def test_glob_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "left" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert find("*/x.png") == [("left/x.png", "left/x.png")]
    assert find("./*/x.png") == [("left/x.png", "left/x.png")]


def test_glob_skips_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "x.png")
    write_image(tmp_path / "b.png")
    assert [name for _, name in find(tmp_path / "*")] == ["b.png"]


def test_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    path = write_image(tmp_path / "cat [1].png")
    assert find(path) == [(path.as_posix(), "cat [1].png")]


@pytest.mark.parametrize("source", ["missing.png", "empty", "*.png"])
def test_no_files_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"source=.*: no image or video"):
        find_media(source, downloads=tmp_path)


@pytest.mark.parametrize("source", ["", " "])
def test_empty_source_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="source is empty"):
        find_media(source, downloads=tmp_path)


@pytest.mark.parametrize("source", ["", "**/*.png"])
def test_output_below_the_source_is_skipped(source: str, tmp_path: Path) -> None:
    for name in ("a.png", "pred/a.png", "pred/crops/b.png", "predicted/c.png"):
        write_image(tmp_path / name)
    media = find_media(str(tmp_path / source), downloads=tmp_path, output=tmp_path / "pred")
    assert [medium.name.as_posix() for medium in media] == ["a.png", "predicted/c.png"]
    inside = find_media(str(tmp_path / "pred"), downloads=tmp_path, output=tmp_path)
    assert [medium.name.as_posix() for medium in inside] == ["a.png", "crops/b.png"]


def test_unsupported_formats_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(tmp_path / "a.png")
    for name in ("b.TGA", "c.tga", "sub.jxl", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert len(find_media(str(tmp_path), downloads=tmp_path)) == 1
    assert "1 .jxl, 2 .tga" in caplog.text


def test_videos_and_images_in_a_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    write_video(tmp_path / "b" / "c.mp4", frames=3)
    media = find_media(str(tmp_path), downloads=tmp_path)
    assert [(medium.name.as_posix(), medium.is_video) for medium in media] == [("a.png", False), ("b/c.mp4", True)]
    assert count_frames(media) == 4


def test_content_decides_for_files_without_a_known_suffix(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png").rename(tmp_path / "one")
    write_video(tmp_path / "b.mp4", frames=3).rename(tmp_path / "two.dat")
    for name, is_video in (("one", False), ("two.dat", True)):
        (medium,) = find_media(str(tmp_path / name), downloads=tmp_path)
        assert medium.is_video == is_video


def test_number_is_a_camera_unless_a_file_has_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (camera,) = find_media("7", downloads=tmp_path)
    assert (camera.path, camera.name, camera.source, camera.is_video) == (7, Path("camera_7"), "7", True)
    assert count_frames([camera]) is None
    write_image(tmp_path / "a.png").rename("7")
    (medium,) = find_media("7", downloads=tmp_path)
    assert (medium.path, medium.is_video) == (Path("7"), False)
