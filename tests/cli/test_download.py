"""The download command, and train.py without images, as a user runs them, against a local server."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
from http_server import FaultyServer, serve
from openimages_site import image_id, publish, settings
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serve() as server:
        publish(server)
        yield server


def images(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.jpg")}


def image_requests(server: FaultyServer) -> list[str]:
    return [path for path, _ in server.requests if path.startswith("/images/")]


def command(server: FaultyServer, *arguments: str) -> list[str]:
    where = [f"download.{name}={value}" for name, value in settings(server).items()]
    first = next(number for number, argument in enumerate(arguments) if "=" in argument)
    return [sys.executable, *arguments[:first], "dataset=openimages", *where, *arguments[first:]]


def run(folder: Path, server: FaultyServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "150"}
    return subprocess.run(
        command(server, *arguments),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_killed_download_continues_with_the_missing_files(server: FaultyServer, tmp_path: Path) -> None:
    publish(server, train=150, val=10, test=10)
    server.pause_s = 0.05
    arguments = command(server, "-m", "ssd", "download", "dataset.root=root", "download.network.workers=4")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    while len(image_requests(server)) < 40:
        assert process.poll() is None
        time.sleep(0.02)
    server.gate.clear()
    locked_out = run(tmp_path, server, "-m", "ssd", "download", "dataset.root=root")
    assert locked_out.returncode == 5
    assert re.fullmatch(r"error: dataset\.root=root: another process .*\n", locked_out.stderr)
    process.send_signal(signal.SIGKILL)
    process.wait()
    existing = images(tmp_path / "root")
    assert all((tmp_path / "root" / name).read_bytes() == server.files[f"/images/{name}"] for name in existing)
    server.pause_s = 0.0
    server.gate.set()
    server.requests.clear()
    done = run(tmp_path, server, "-m", "ssd", "download", "dataset.root=root")
    assert done.returncode == 0, done.stderr
    requested = {path.removeprefix("/images/") for path in image_requests(server)}
    assert requested.isdisjoint(existing)
    assert requested | existing == images(tmp_path / "root")
    assert len(server.requests) == len(requested) > 0  # no table again, no image twice
    assert json.loads((tmp_path / "root" / ".download.json").read_text())["finished"] is True
    assert not list((tmp_path / "root").rglob(".*.part"))


def test_a_killed_download_continues_within_files(server: FaultyServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    rows = server.files["/boxes/train/train-annotations-bbox.csv"].decode().splitlines()[1:]
    large = [f"/images/train/{id}.jpg" for id in sorted({row.split(",")[0] for row in rows})[:4]]
    for path in large:
        server.files[path] = buffer.getvalue()
        server.fail(path, ["stall"])
    arguments = command(server, "-m", "ssd", "download", "dataset.root=root", "dataset.classes=null")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    parts = [tmp_path / "root" / "train" / f".{Path(path).name}.part" for path in large]
    while not all(part.exists() and part.stat().st_size for part in parts):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    sizes = [part.stat().st_size for part in parts]
    server.requests.clear()
    done = run(tmp_path, server, "-m", "ssd", "download", "dataset.root=root", "dataset.classes=null")
    assert done.returncode == 0, done.stderr
    requested = {path: bytes_range for path, bytes_range in server.requests if path in large}
    assert requested == {path: f"bytes={size}-" for path, size in zip(large, sizes, strict=True)}
    assert all((tmp_path / "root" / path.removeprefix("/images/")).read_bytes() == server.files[path] for path in large)


def test_exit_codes_and_plain_output(server: FaultyServer, tmp_path: Path) -> None:
    statistics = run(tmp_path, server, "-m", "ssd", "download", "dataset.root=root", "stats_only=true")
    assert statistics.returncode == 0, statistics.stderr
    assert images(tmp_path) == set()
    server.fail(f"/images/test/{image_id('test', 0)}.jpg", repeat("404"))
    partly = run(tmp_path, server, "-m", "ssd", "download", "dataset.root=root", "dataset.classes=null")
    assert partly.returncode == 4
    assert re.fullmatch(r"error: 1 of 3\d images are missing \(404 Not Found: 1\), see .*\n", partly.stderr)
    assert re.search(r"3\d of 3\d images into root\n", partly.stdout)
    assert "\x1b" not in partly.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_a_dataset_without_a_download_is_a_usage_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "ssd", "download", "dataset=shapes"]
    wrong = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert re.fullmatch(r"error: .*dataset=openimages or dataset=voc\n", wrong.stderr)
    assert wrong.returncode == 2


def train(folder: Path, server: FaultyServer, *more: str) -> subprocess.CompletedProcess[str]:
    small = ["image_size=96", "epochs=1", "num_workers=0", "batch_size=8", "postprocess.topk_candidates=100"]
    return run(folder, server, str(ROOT / "train.py"), "backbone=mobilenet_v1_half", *small, *more)


def test_one_command_downloads_trains_and_tests(server: FaultyServer, tmp_path: Path) -> None:
    first = train(tmp_path, server, "backbone.width_multiplier=0.25")
    assert first.returncode == 0, first.stderr
    assert len(images(tmp_path / "data/openimages")) == len(image_requests(server)) > 20
    for part in (
        "images downloaded, 0 already existed",
        "train: ",
        "val: ",
        "test: ",
        "test results",
        "AP Person",
        "AP Bus",
    ):
        assert part in first.stdout, part


@pytest.mark.slow
def test_a_second_training_downloads_nothing(server: FaultyServer, tmp_path: Path) -> None:
    publish(server, train=120, val=20, test=20)
    first = train(tmp_path, server, "epochs=2")
    assert first.returncode == 0, first.stderr
    server.requests.clear()
    second = train(tmp_path, server)
    assert second.returncode == 0, second.stderr
    assert server.requests == []
    assert "downloaded" not in second.stdout


@pytest.mark.slow
def test_two_processes_download_once_and_train_together(server: FaultyServer, tmp_path: Path) -> None:
    done = train(tmp_path, server, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert done.returncode == 0, done.stderr
    assert len(image_requests(server)) == len(set(image_requests(server))) > 20
