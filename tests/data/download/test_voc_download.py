"""Downloads of PASCAL VOC from a local server: archives, mirrors, extraction, and one command that trains."""

from __future__ import annotations

import hashlib
import io
import logging
import shutil
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from composed import compose
from forked import run
from http_server import FaultyServer, serve
from hydra.utils import instantiate
from voc_files import read, write_voc

from ssd.common.errors import DataError, MachineError
from ssd.common.http_client import Network
from ssd.data.download.voc import Archive, VocDownload
from ssd.data.splits import Splits

NAMES = {"VOCtrainval_a.tar": ("voc2007", "trainval"), "VOCtest_a.tar": ("voc2007", "test")}
IMAGES = {"trainval": [f"{number:06}" for number in range(12)], "test": ["100000", "100001"]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr("ssd.common.downloads._BACKOFF_S", 0.01)
    with serve() as server:
        yield server


@pytest.fixture
def archives(server: FaultyServer, tmp_path_factory: pytest.TempPathFactory) -> list[Archive]:
    """Two that fill one year, as on the server, with a folder that is not extracted."""
    archives = []
    for name, (folder, split) in NAMES.items():
        root = tmp_path_factory.mktemp("archives") / "VOCdevkit" / "VOC2007"
        write_voc(root, {split: IMAGES[split]})
        (root / "SegmentationClass").mkdir()
        (root / "SegmentationClass" / "000000.png").write_bytes(b"large")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(root.parent, arcname="VOCdevkit")
        archives.append(publish(server, name, buffer.getvalue(), folder=folder))
    return archives


def publish(server: FaultyServer, name: str, content: bytes, *, folder: str = "voc2007") -> Archive:
    server.files[f"/{folder}/{name}"] = content
    return Archive(name=name, folder=folder, bytes=len(content), md5=hashlib.md5(content).hexdigest())


def source(server: FaultyServer, root: Path, archives: list[Archive], **changes: Any) -> VocDownload:
    network = Network(workers=1, tries=2, connect_timeout_s=1.0, read_timeout_s=0.5)
    given = {"root": str(root), "training_root": str(root), "mirrors": [mirror(server)], "network": network}
    return VocDownload(archives=archives, **(given | changes))


def mirror(server: FaultyServer) -> str:
    return f"{server.url}/{{folder}}/{{name}}"


def paths(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def sizes(splits: Splits) -> dict[str, int]:
    return {name: len(index) for name, index in splits.items()}


def dead_host() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


# Complete downloads


def test_archives_are_extracted_and_a_second_run_requests_nothing(
    server: FaultyServer, archives: list[Archive], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ssd")
    source(server, tmp_path / "voc", archives).statistics()
    assert [line.rpartition(", ")[2] for line in caplog.messages] == ["missing", "missing"]
    source(server, tmp_path / "voc", archives).run()
    splits = read(tmp_path / "voc", val_splits=[])
    assert sizes(splits) == {"train": 12, "test": 2}
    assert splits.test is not None
    assert list(splits.test.ids) == ["VOCdevkit/VOC2007/Annotations/100000", "VOCdevkit/VOC2007/Annotations/100001"]
    folders = {"Annotations", "ImageSets", "JPEGImages"}
    assert {path.name for path in (tmp_path / "voc/VOCdevkit/VOC2007").iterdir()} == folders
    assert not [path for path in paths(tmp_path) if path.endswith(".part")]
    server.requests.clear()
    caplog.clear()
    source(server, tmp_path / "voc", archives).run()
    source(server, tmp_path / "voc", archives).prepare()
    source(server, tmp_path / "voc", archives).statistics()
    assert server.requests == []
    assert [line.rpartition(", ")[2] for line in caplog.messages[1:]] == ["extracted", "extracted"]


def test_the_configuration_builds_the_official_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose("dataset=voc", name="download")
    built = instantiate(config.download, _convert_="all")
    assert isinstance(built, VocDownload)
    assert built.root == built.training_root == Path(config.dataset.root)
    assert built.archives == VocDownload("").archives
    assert replace(built.network, workers=16) == VocDownload("").network
    assert [(archive.name, archive.folder) for archive in built.archives] == [
        ("VOCtrainval_06-Nov-2007.tar", "voc2007"),
        ("VOCtest_06-Nov-2007.tar", "voc2007"),
        ("VOCtrainval_11-May-2012.tar", "voc2012"),
    ]
    urls = [mirror.format(folder="voc2007", name="a.tar") for mirror in built.mirrors]
    assert all(url.startswith(("http://", "https://")) and url.endswith("/a.tar") for url in urls)


# Mirrors


def test_the_next_mirror_is_tried_if_one_is_down_or_has_another_file(
    server: FaultyServer, archives: list[Archive], tmp_path: Path
) -> None:
    server.files["/other/VOCtrainval_a.tar"] = b"0" * archives[0].bytes
    server.files["/page/VOCtrainval_a.tar"] = b"<html>Please sign in</html>"
    mirrors = [dead_host() + "/{name}"]
    mirrors += [f"{server.url}/{path}/{{name}}" for path in ("nothing", "other", "page")] + [mirror(server)]
    source(server, tmp_path, archives, mirrors=mirrors).run()
    assert sizes(read(tmp_path, val_splits=[])) == {"train": 12, "test": 2}
    requested = [path for path, _ in server.requests if path.endswith("trainval_a.tar")]
    assert requested == [f"/{path}/VOCtrainval_a.tar" for path in ("nothing", "other", "page", "voc2007")]


def test_if_every_mirror_fails_the_message_names_the_folder(
    server: FaultyServer, archives: list[Archive], tmp_path: Path
) -> None:
    mirrors = [dead_host() + "/{name}", server.url + "/nothing/{name}"]
    down, gone = r"127\.0\.0\.1:\d+: .*refused, 2 times", r"127\.0\.0\.1:\d+: 404 Not Found"
    expected = rf"^VOCtrainval_a\.tar: no mirror has it \({down}, {gone}\); .* into {tmp_path} "
    with pytest.raises(MachineError, match=expected):
        source(server, tmp_path, archives, mirrors=mirrors).run()
    assert "VOCdevkit" not in {path.name for path in tmp_path.iterdir()}


def test_an_archive_that_is_already_there_is_used(
    server: FaultyServer, archives: list[Archive], tmp_path: Path
) -> None:
    for archive in archives:
        (tmp_path / archive.name).write_bytes(server.files[f"/{archive.folder}/{archive.name}"])
    source(server, tmp_path, archives).prepare()
    assert server.requests == []
    assert sizes(read(tmp_path, val_splits=[])) == {"train": 12, "test": 2}


def test_another_file_of_the_same_name_is_refused_and_kept(
    server: FaultyServer, archives: list[Archive], tmp_path: Path
) -> None:
    (tmp_path / archives[0].name).write_bytes(b"half of it")
    with pytest.raises(
        DataError, match=r"VOCtrainval_a\.tar: not the official file \(10 bytes of \d+, MD5 [0-9a-f]{32}"
    ):
        source(server, tmp_path, archives).run()
    assert (tmp_path / archives[0].name).read_bytes() == b"half of it"


# Interrupted downloads, full disks, folders of other origin


def test_an_interrupted_download_continues(server: FaultyServer, archives: list[Archive], tmp_path: Path) -> None:
    server.fail("/voc2007/VOCtest_a.tar", ["404"])
    with pytest.raises(MachineError, match=r"^VOCtest_a\.tar: no mirror has it"):
        source(server, tmp_path, archives).prepare()
    server.requests.clear()
    source(server, tmp_path, archives).prepare()
    assert [path for path, _ in server.requests] == ["/voc2007/VOCtest_a.tar"]
    shutil.rmtree(tmp_path / "VOCdevkit")
    leftover = tmp_path / "VOCdevkit" / "VOC2007" / "Annotations" / ".000000.xml.1.partial"  # of a killed process
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    (tmp_path / ".download.json").write_text("{}")
    source(server, tmp_path, archives).prepare()  # from the archives
    assert not leftover.exists()
    assert len(server.requests) == 1
    assert sizes(read(tmp_path, val_splits=[])) == {"train": 12, "test": 2}


def test_without_enough_space_nothing_is_downloaded(
    server: FaultyServer, archives: list[Archive], tmp_path: Path
) -> None:
    huge = Archive(name="huge.tar", folder="voc2007", bytes=10**18, md5="0")
    with pytest.raises(MachineError, match=r"GB free, 2000000000\.\d GB needed"):
        source(server, tmp_path, [*archives, huge]).run()
    assert server.requests == []


@pytest.mark.parametrize("kind", ["elsewhere", "filled"])
def test_training_fills_only_its_own_folder(
    server: FaultyServer, archives: list[Archive], tmp_path: Path, kind: str
) -> None:
    if kind == "filled":
        write_voc(tmp_path / "voc", {"trainval": ["mine"]})
    before = paths(tmp_path)
    training_root = tmp_path / ("data" if kind == "elsewhere" else "voc")
    source(server, tmp_path / "voc", archives, training_root=str(training_root)).prepare()
    assert (server.requests, paths(tmp_path)) == ([], before)


# Hostile archives


def test_only_regular_files_of_the_expected_names_are_extracted(server: FaultyServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    good = "VOCdevkit/VOC2007/Annotations/good.xml"
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in (
            "../outside.xml",
            "/tmp/absolute.xml",
            "VOCdevkit/VOC2007/Annotations/../../../../outside.xml",
            "VOCdevkit/VOC2007/Annotations/..",
            "VOCdevkit/../VOC2007/Annotations/a.xml",
            "VOCdevkit/VOC2007/.hidden",
            good,
        ):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"VOCdevkit/VOC2007/JPEGImages/{kind.decode()}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    root = tmp_path / "a" / "b"
    source(server, root, [publish(server, "hostile.tar", buffer.getvalue())]).run()
    kept = {path for path in paths(tmp_path) if not Path(path).name.startswith(".download")}
    assert kept == {f"a/b/{good}", "a/b/hostile.tar"}
    assert not list(tmp_path.rglob("*.jpg"))


@pytest.mark.parametrize("content", [b"", b"no archive" * 1000, b"\x1f\x8b compressed"])
def test_a_file_that_is_no_archive_is_an_error(server: FaultyServer, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"bad\.tar: not a tar file"):
        source(server, tmp_path, [publish(server, "bad.tar", content)]).run()


# The command


def test_one_command_downloads_trains_and_tests(server: FaultyServer, archives: list[Archive], tmp_path: Path) -> None:
    items = [f"{{name:{item.name},folder:{item.folder},bytes:{item.bytes},md5:'{item.md5}'}}" for item in archives]
    target = "_target_:ssd.data.download.voc.Archive,"
    given = [f"download.archives=[{','.join(item.replace('{', '{' + target, 1) for item in items)}]"]
    given += [f"download.mirrors=['{mirror(server)}']", "dataset=voc", "backbone=mobilenet_v1_half"]
    small = ["image_size=96", "epochs=1", "num_workers=0", "batch_size=4", "postprocess.topk_candidates=100"]
    done = run(tmp_path, "train.py", *given, *small)
    assert done.returncode == 0, done.stderr
    for part in ("VOCtest_a.tar: 5 files", "data/voc/VOCdevkit", "train: 11", "val: 1", "test: 2"):
        assert part in done.stdout, done.stdout
