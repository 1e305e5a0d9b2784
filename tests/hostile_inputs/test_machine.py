"""Full disks, kills, two processes at once, and a user without rights: what is written is whole, or is not there."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import random
import runpy
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from forked import ROOT, fork
from forked import run as run_command
from media import write_video
from onnx import numpy_helper
from onnx_graphs import constant
from voc_files import write_voc

from hostile_inputs.cases_images import _detector, image
from ssd.common.atomic_files import remove_partial_files, write_atomically
from ssd.data.analysis import report
from ssd.data.cache import FOLDER, read_cached
from ssd.data.formats.voc import read_voc
from ssd.inference import onnx_file

SPLITS = {"train": [f"t{number}" for number in range(30)], "val": ["v"], "test": ["w"]}


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which 4 KiB are free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no permission to mount")
    (folder / "filler").write_bytes(bytes(192 << 10))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "dataset=voc", "dataset.root=data", "output=disk/out"],
        [
            "evaluate",
            "dataset=voc",
            "dataset.root=data",
            "dataset.class_map={cat:dog}",
            "checkpoint=model.safetensors",
            "output=disk/out",
        ],
        ["export", "checkpoint=model.safetensors", "images=in", "output=disk/out/model.onnx"],
        ["predict", "checkpoint=model.safetensors", "source=in", "output=disk/out"],
        ["predict", "checkpoint=model.safetensors", "source=in/street.mp4", "output=disk/out"],
    ],
    ids=["inspect", "evaluate", "export", "predict", "predict a video"],
)
def test_a_full_disk_is_one_line_and_no_half_file(tmp_path: Path, full_disk: Path, command: list[str]) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"], "test": ["d"]})
    (tmp_path / "model.safetensors").write_bytes(_detector())
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(image("JPEG", size=(300, 200)))
    if "a video" in str(command) or "street" in str(command):
        write_video(tmp_path / "in/street.mp4", frames=60, size=(240, 320))
    done = run_command(tmp_path, *command)
    assert (done.returncode, len(done.stderr.splitlines())) == (5, 1), done.stderr
    assert "disk" in done.stderr
    whole = {".jpg", ".html", ".json", ".onnx", ".mp4"}
    left = [path for path in (full_disk / "out").rglob("*") if path.suffix in whole and ".partial" not in path.name]
    for path in left:  # complete ones
        assert path.suffix == ".jpg"
        assert path.read_bytes().endswith(b"\xff\xd9")


def test_a_full_disk_costs_the_cache_only(full_disk: Path) -> None:
    (full_disk / "filler").write_bytes(bytes(90 << 10))
    write_voc(full_disk / "data", {"train": ["a", "b"], "val": ["c"]})
    with pytest.raises(OSError, match="No space"):
        _fill(full_disk)
    read = partial(read_voc, root=str(full_disk / "data"))
    assert read_cached(read).class_names == ("cat",)
    assert list((full_disk / "data" / FOLDER).glob("*.safetensors")) == []


def _fill(folder: Path) -> None:
    for number in range(100):
        (folder / f"filler{number}").write_bytes(bytes(4096))


READER = """
import sys
from functools import partial
from ssd.data.cache import read_cached
from ssd.data.formats.voc import read_voc
print("ready", flush=True)
while True:
    splits = read_cached(partial(read_voc, root=sys.argv[1], seed=int(sys.argv[2])))
    assert len(splits.train) == 30
    if len(sys.argv) > 3:
        break
    import shutil
    shutil.rmtree(sys.argv[1] + "/.ssd_cache", ignore_errors=True)
"""


def reader(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READER, str(root), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_killed_writer_leaves_a_cache_that_is_right_or_none(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", SPLITS)
    rng = random.Random(0)
    for _ in range(6):
        with reader(tmp_path / "data", "0") as process:
            time.sleep(rng.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
        splits = read_cached(partial(read_voc, root=str(tmp_path / "data"), seed=0))
        assert splits.train is not None
        assert len(splits.train) == 30


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", SPLITS)
    processes = [reader(tmp_path / "data", str(seed), "once") for seed in (0, 0, 1, 1)]
    codes = []
    for process in processes:
        with process:
            codes.append(process.wait(60))
    assert codes == [0] * 4
    files = sorted(path.name for path in (tmp_path / "data" / FOLDER).iterdir())
    assert len(files) == 2  # one for each seed, and nothing partial


CHECKS: dict[str, Callable[[Path], object]] = {
    "model.onnx": onnx_file.read,
    "model.onnx.json": lambda path: json.loads(path.read_text()),
    "report.html": lambda path: path.read_text().rindex("</html>"),
    "problems.txt": Path.read_text,
}


def _write_outputs(folder: Path, graph: onnx.ModelProto) -> None:
    """Writes what `ssd export` and `ssd inspect` write, as they do."""
    write_atomically(folder / "model.onnx", lambda path: path.write_bytes(onnx_file.seal(graph)))
    write_atomically(folder / "model.onnx.json", json.dumps(list(range(100_000))))
    section = report.Section("a", "A", ["text " * 1_000_000])
    report.write_report(folder, [], [section], title="T", seconds=1.0)


def _kill_writers(folder: Path) -> None:
    """Kills writers at random moments; exits with 1 if a file is not whole."""
    graph = constant()
    graph.graph.initializer.append(numpy_helper.from_array(np.ones(2_000_000, np.float32), "weights"))
    rng, temporary = random.Random(0), set[str]()

    def check() -> set[str]:
        names = {path.name for path in folder.iterdir()}
        for name in names & CHECKS.keys():
            CHECKS[name](folder / name)
        return names

    for _ in range(20):  # with six, a writer that is not atomic passed two times in three
        child = os.fork()
        while not child:
            _write_outputs(folder, graph)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        temporary |= {f".{name}.{child}.partial" for name in CHECKS}
        assert check() <= CHECKS.keys() | temporary
    left = check()
    _write_outputs(folder, graph)
    assert check() == CHECKS.keys() | left
    remove_partial_files(folder)
    assert check() == CHECKS.keys()


def test_a_killed_export_or_report_leaves_whole_files(tmp_path: Path) -> None:
    process = fork(_kill_writers, tmp_path)
    process.join()
    assert process.exitcode == 0


def _without_capabilities(folder: str, command: list[str], report: str) -> None:
    """Runs a command as this user, whom file modes bind even if it is root."""
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    assert ctypes.CDLL(None).capset(header, bytes(24)) == 0
    multiprocessing.set_start_method("fork", force=True)
    sys.argv = ["ssd", *command]
    runpy.run_module("ssd", run_name="__main__")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["inspect", "dataset=voc", "dataset.root=data", "output=out"], 3),
        (["predict", "checkpoint=model.safetensors", "source=data", "output=out", "device=cpu"], 4),
    ],
    ids=["inspect", "predict"],
)
def test_folders_that_a_user_cannot_read_are_listed(command: list[str], code: int, tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a", "b"], "val": ["c"]})
    (tmp_path / "model.safetensors").write_bytes(_detector())
    closed = tmp_path / "data/JPEGImages/more"
    closed.mkdir()
    (closed / "x.jpg").write_bytes(image("JPEG"))
    closed.chmod(0)
    try:
        process = fork(_without_capabilities, str(tmp_path), command, str(tmp_path / "report"))
        process.join(60)
    finally:
        closed.chmod(0o700)
    text = (tmp_path / "report").read_text()
    assert process.exitcode == code, text
    assert "JPEGImages/more" in text
    assert "Traceback" not in text
