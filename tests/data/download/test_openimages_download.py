"""Downloads of Open Images from a local server: the selection, the folder, the list of missing images."""

from __future__ import annotations

import csv
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
from composed import compose
from http_server import PASSING, FaultyServer, serve
from hydra.utils import instantiate
from openimages_site import MIDS, OFFICIAL, image_id, publish, settings

from ssd.common.errors import ConfigError, DataError, MachineError, PartialError
from ssd.common.http_client import Network
from ssd.data.download.openimages import OpenImagesDownload
from ssd.data.formats.openimages import read_openimages
from ssd.data.splits import Splits

CLASSES = ["Person", "Car", "Bus"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setattr("ssd.common.downloads._BACKOFF_S", 0.01)
    with serve() as server:
        publish(server)
        yield server


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="ssd")
    return caplog


def source(server: FaultyServer, root: Path, **changes: Any) -> OpenImagesDownload:
    return OpenImagesDownload(root=str(root), **({"classes": CLASSES} | settings(server) | changes))


def read(root: Path, classes: list[str] | None = None) -> Splits:
    return read_openimages(
        str(root), classes=classes or CLASSES, expand_hierarchy=False, include_depictions=False, strict=True
    )


def images(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.jpg")}


def image_requests(server: FaultyServer) -> list[str]:
    return [path for path, _ in server.requests if path.startswith("/images/")]


# Complete downloads


def test_all_files_arrive_unchanged_and_a_second_run_requests_nothing(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path).run()
    for name in images(tmp_path):
        assert (tmp_path / name).read_bytes() == server.files[f"/images/{name}"]
    assert {len(index) > 0 for _, index in read(tmp_path).items()} == {True}
    assert [name for name, _ in read(tmp_path).items()] == ["train", "val", "test"]
    server.requests.clear()
    source(server, tmp_path).run()
    source(server, tmp_path).prepare()
    assert server.requests == []


def test_a_limit_counts_images_and_keeps_all_their_boxes(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path / "all").run()
    source(server, tmp_path / "few", max_images=10).run()
    assert len(images(tmp_path / "few")) == 10
    assert images(tmp_path / "few") < images(tmp_path / "all")
    everything, few = read(tmp_path / "all").train, read(tmp_path / "few").train
    boxes = {
        everything.ids[place]: everything.boxes[everything.rows(place)].tolist() for place in range(len(everything))
    }
    for place in range(len(few)):
        assert few.boxes[few.rows(place)].tolist() == boxes[few.ids[place]]


def test_classes_match_in_any_case_and_select_the_images(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path, classes=["bus"]).run()
    assert read(tmp_path, ["Bus"]).class_names == ("Bus",)
    rows = server.files["/boxes/train/train-annotations-bbox.csv"].decode().splitlines()[1:]
    with_bus = {row.split(",")[0] for row in rows if MIDS[row.split(",")[2]] == "Bus"}
    assert {Path(name).stem for name in images(tmp_path) if name.startswith("train/")} == with_bus


def test_a_mistyped_class_fails_before_the_large_files_are_downloaded(server: FaultyServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class 'Persn'; did you mean 'Person'"):
        source(server, tmp_path, classes=["Persn"]).run()
    assert [path for path, _ in server.requests] == ["/boxes/class-descriptions-boxable.csv"]


def test_statistics_download_no_image(server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    source(server, tmp_path, max_images=10).statistics()
    assert image_requests(server) == []
    table = "\n".join(log.messages)
    rows = server.files["/boxes/train/train-annotations-bbox.csv"].decode().splitlines()[1:]
    cars = [row.split(",")[0] for row in rows if MIDS[row.split(",")[2]] == "Car"]
    assert re.search(rf"train +│ Car +│ +\d+ / {len(set(cars))} │ +\d+ / {len(cars)} │", table), table
    assert re.search(r"validation +│ all images +│ +1 ", table), table
    source(server, tmp_path, max_images=10).prepare()  # such a folder is still to be filled
    assert len(images(tmp_path)) == 10


def test_expand_hierarchy_selects_and_reads_subclasses(server: FaultyServer, tmp_path: Path) -> None:
    counted = {}
    for expand in (False, True):
        root = tmp_path / str(expand)
        source(server, root, classes=["Car"], expand_hierarchy=expand).run()
        splits = read_openimages(
            str(root), classes=["Car"], expand_hierarchy=expand, include_depictions=False, strict=True
        )
        counted[expand] = {name: len(index.boxes) for name, index in splits.items()}
    expected = {}
    for split, official in OFFICIAL.items():
        rows = server.files[f"/boxes/{official}/{official}-annotations-bbox.csv"].decode().splitlines()[1:]
        expected[split] = sum(MIDS[row.split(",")[2]] in ("Car", "Dog") for row in rows)
    assert counted[True] == expected
    assert counted[False]["train"] < expected["train"]
    assert images(tmp_path / "False") < images(tmp_path / "True")
    assert server.count("/boxes/bbox_labels_600_hierarchy.json") == 1


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"LabelName": 3, "Subcategory": 5}'])
def test_an_invalid_hierarchy_is_an_error(server: FaultyServer, tmp_path: Path, content: bytes) -> None:
    server.files["/boxes/bbox_labels_600_hierarchy.json"] = content
    with pytest.raises(MachineError, match=r"bbox_labels_600_hierarchy\.json: .*download\.annotations_url="):
        source(server, tmp_path, expand_hierarchy=True).run()
    assert not (tmp_path / "bbox_labels_600_hierarchy.json").exists()


def test_an_empty_image_file_is_downloaded_again(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path).run()
    name = min(images(tmp_path))
    (tmp_path / name).write_bytes(b"")
    server.requests.clear()
    source(server, tmp_path).run()
    assert image_requests(server) == [f"/images/{name}"]
    assert (tmp_path / name).read_bytes() == server.files[f"/images/{name}"]


def test_class_names_are_not_taken_for_markup(
    server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    server.files["/boxes/class-descriptions-boxable.csv"] = b"/m/01g317,[/red]\n/m/0k4j,Car\n"
    source(server, tmp_path, classes=None).statistics()
    assert any("[/red]" in line for line in log.messages)


@pytest.mark.parametrize("missing", ["class-descriptions-boxable.csv", "train/train-annotations-bbox.csv"])
@pytest.mark.parametrize("fault", ["404", "html", "text"])
def test_a_table_that_cannot_be_downloaded_is_an_error(
    server: FaultyServer, tmp_path: Path, missing: str, fault: str
) -> None:
    if fault == "text":
        server.files[f"/boxes/{missing}"] = b"Dear guest, please sign in, then go on\n"
    else:
        server.fail(f"/boxes/{missing}", repeat(fault))
    with pytest.raises(MachineError, match=rf"{Path(missing).name}: .*download\.annotations_url="):
        source(server, tmp_path).run()
    assert not (tmp_path / Path(missing).name).exists()
    assert image_requests(server) == []


@pytest.mark.parametrize("splits", [["train", "val"], []])
def test_splits_must_have_official_names(server: FaultyServer, tmp_path: Path, splits: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"download\.splits=.*train, validation, test"):
        source(server, tmp_path, splits=splits)


@pytest.mark.parametrize("id", ["../x", "/etc/x", "a/b", "a;touch x", "$(x)", "..", "=1+1", "a\\b", "a\0b", "-e x"])
def test_a_hostile_id_never_becomes_a_path(server: FaultyServer, tmp_path: Path, id: str) -> None:
    text = server.files["/boxes/train/train-annotations-bbox.csv"].decode()
    hostile = f"{id},xclick,/m/0k4j,1,0.1,0.5,0.1,0.5,0,0,0,0,0\n"
    server.files["/boxes/train/train-annotations-bbox.csv"] = (text + hostile).encode()
    root = tmp_path / "deep" / "root"
    with pytest.raises(DataError, match=rf"train-annotations-bbox\.csv:{len(text.splitlines()) + 1}: ImageID is"):
        source(server, root).run()
    assert image_requests(server) == []
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "class-descriptions-boxable.csv",
        "train-annotations-bbox.csv",
        "validation-annotations-bbox.csv",
        "test-annotations-bbox.csv",
        ".download.json",
        ".download.lock",
    }


# Missing images


def test_missing_images_are_counted_listed_and_retried(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path / "all").run()
    first, second, *_ = sorted(images(tmp_path / "all"))
    server.fail(f"/images/{first}", ["404"])
    server.fail(f"/images/{second}", ["html"] * 5)
    with pytest.raises(PartialError, match=r"^2 of \d+ images are missing \(.*: 1, .*: 1\), .*missing\.csv"):
        source(server, tmp_path / "some").run()
    with (tmp_path / "some" / "missing.csv").open() as file:
        assert list(csv.reader(file)) == [
            ["file", "reason"],
            [first, "404 Not Found"],
            [second, "not an image (it looks like a web page)"],
        ]
    server.requests.clear()
    source(server, tmp_path / "some").run()
    assert sorted(image_requests(server)) == [f"/images/{first}", f"/images/{second}"]
    assert not (tmp_path / "some" / "missing.csv").exists()


def test_five_hundred_images_of_which_a_fifth_fail_at_first(server: FaultyServer, tmp_path: Path) -> None:
    publish(server, train=450, val=50, test=50)
    served = {path.removeprefix("/images/"): body for path, body in server.files.items() if path.endswith(".jpg")}
    rng = random.Random(1)
    faulty = rng.sample(sorted(served), len(served) // 5)
    temporary, permanent = faulty[20:], faulty[:20]
    for name in temporary:
        server.fail(f"/images/{name}", rng.choices([*PASSING, "shorter"], k=rng.randrange(1, 4)))
    for name in permanent:
        server.fail(f"/images/{name}", repeat(rng.choice(["404", "403", "500", "html", "truncated"])))
    with pytest.raises(PartialError):
        source(server, tmp_path, classes=None, network=Network(read_timeout_s=0.3)).run()
    requested = {path.removeprefix("/images/") for path in image_requests(server)}
    assert len(requested) > 500
    with (tmp_path / "missing.csv").open() as file:
        assert {row["file"] for row in csv.DictReader(file)} == set(permanent) & requested
    assert images(tmp_path) == requested - set(permanent)
    assert all((tmp_path / name).read_bytes() == served[name] for name in images(tmp_path))


def test_no_cell_of_missing_csv_is_a_formula(server: FaultyServer, tmp_path: Path) -> None:
    text = server.files["/boxes/train/train-annotations-bbox.csv"].decode()
    server.files["/boxes/train/train-annotations-bbox.csv"] = text.replace(image_id("train", 1), "-1").encode()
    with pytest.raises(PartialError):
        source(server, tmp_path, classes=None).run()
    with (tmp_path / "missing.csv").open() as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "train/-1.jpg" in cells
    assert all(cell[0].isalnum() for cell in cells)


def test_if_every_image_fails_the_address_is_wrong(server: FaultyServer, tmp_path: Path) -> None:
    for start in (OpenImagesDownload.run, OpenImagesDownload.prepare):
        with pytest.raises(MachineError, match=r"404 Not Found; .*download\.images_url"):
            start(source(server, tmp_path, images_url=f"{server.url}/elsewhere"))


def test_without_a_network_the_message_names_download_null(server: FaultyServer, tmp_path: Path) -> None:
    offline = source(server, tmp_path, annotations_url="http://127.0.0.1:1")
    with pytest.raises(MachineError, match=r"Connection refused, 2 times; .*download=null"):
        offline.prepare()


def test_training_continues_without_missing_images_and_does_not_retry(
    server: FaultyServer, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    server.fail(f"/images/train/{image_id('train', 1)}.jpg", repeat("404"))
    source(server, tmp_path, classes=None).prepare()
    assert any(re.match(r"warning: 1 of \d+ images are missing", line) for line in log.messages)
    server.requests.clear()
    source(server, tmp_path, classes=None).prepare()
    assert server.requests == []


# Folders of other origin


@pytest.mark.parametrize("kind", ["images", "images and tables", "of another downloader", "something else", "file"])
def test_training_does_not_touch_a_folder_of_other_origin(server: FaultyServer, tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("")
    else:
        names = {
            "images": ["train/a.jpg"],
            "images and tables": ["train/a.jpg", "train-annotations-bbox.csv"],
            "of another downloader": ["sub-train-annotations-bbox.csv", "class-descriptions-boxable.csv"],
            "something else": ["notes.txt"],
        }
        for name in names[kind]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("")
    before = sorted(tmp_path.rglob("*"))
    source(server, root).prepare()
    assert server.requests == []
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_completes_other_folders_but_not_those_of_another_downloader(
    server: FaultyServer, tmp_path: Path
) -> None:
    kept = tmp_path / "train" / f"{image_id('train', 1)}.jpg"
    kept.parent.mkdir()
    kept.write_bytes(b"as it was")
    source(server, tmp_path, classes=None).run()
    assert len(images(tmp_path)) > 1
    assert kept.read_bytes() == b"as it was"
    (tmp_path / "sub-train-annotations-bbox.csv").write_text("")
    for start in (OpenImagesDownload.run, OpenImagesDownload.statistics):
        with pytest.raises(ConfigError, match=r"sub-train-annotations-bbox\.csv .*dataset\.root"):
            start(source(server, tmp_path))


def test_training_downloads_what_another_selection_lacks(server: FaultyServer, tmp_path: Path) -> None:
    source(server, tmp_path, max_images=10).prepare()
    source(server, tmp_path, max_images=20).prepare()
    assert len(images(tmp_path)) == 20
    assert len(image_requests(server)) == 20
    (tmp_path / ".download.json").write_text("{")
    source(server, tmp_path, max_images=20).prepare()
    assert len(image_requests(server)) == 20


def test_the_layout_with_an_images_folder_is_kept(server: FaultyServer, tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    source(server, tmp_path).run()
    assert {Path(name).parent.as_posix() for name in images(tmp_path)} == {"images/train", "validation", "test"}
    assert len(read(tmp_path).train) > 0


def test_the_configuration_has_every_constructor_argument_and_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose("dataset=openimages", name="download").download
    assert set(config) - {"_target_"} == set(OpenImagesDownload.__dataclass_fields__)
    built = instantiate(config, _convert_="all")
    assert built.classes == CLASSES
    assert replace(built, splits=tuple(built.splits), classes=None) == OpenImagesDownload(root=config.root)
