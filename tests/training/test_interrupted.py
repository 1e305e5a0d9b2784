"""Runs that are killed, stopped, or run out of space: nothing is lost, and the exit code gives the cause."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from forked import ROOT, TINY, start
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd.weights import checkpoint
from ssd.weights.safe_load import safe_load

STEPS = 24  # of TINY


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def wait_for_step(folder: Path, step: int) -> None:
    """Until metrics.csv has a training step."""
    for _ in range(4800):
        if (folder / "metrics.csv").exists() and any(
            row.get("train/loss") and int(row["step"]) >= step for row in rows(folder)
        ):
            return
        time.sleep(0.05)
    raise AssertionError("no such step in four minutes")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    start(folder, *TINY, "--cfg", "job").join()  # the first process waits for the imports
    before = time.monotonic()
    process = start(folder, *TINY, "hydra.run.dir=run")
    process.join()
    (folder / "seconds").write_text(str(time.monotonic() - before))
    assert process.exitcode == 0, (folder / "output").read_text()
    return folder / "run"


def seconds(whole: Path) -> float:
    """Duration of a run on this machine now."""
    return float((whole.parent / "seconds").read_text())


def kill_often(folder: Path, *, kills: int, seed: int, seconds: float) -> None:
    """Starts the run, kills it at a random moment of its `seconds`, resumes it ... and lets it end."""
    run, chance, step = folder / "run", random.Random(seed), 0
    for number in range(kills + 1):
        resumes = (run / ".hydra/overrides.yaml").exists()
        process = start(folder, *(["resume=run"] if resumes else [*TINY, "hydra.run.dir=run"]))
        process.join(None if number == kills else chance.uniform(0, seconds))
        if number == kills or not process.is_alive():
            assert process.exitcode == 0, (folder / "output").read_text()
            continue
        process.kill()
        process.join()
        for path in (run / "checkpoints").glob("[!.]*.ckpt"):
            checkpoint.load(path)
        last = run / "checkpoints/last.ckpt"
        saved = safe_load(last)["global_step"] if last.exists() else 0
        logged = max((int(row["step"]) + 1 for row in rows(run)), default=0) if (run / "metrics.csv").exists() else 0
        assert saved >= max(step, min(logged, STEPS) - 1)  # at most one interval is lost
        step = saved


def test_a_run_killed_again_and_again_ends_like_an_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    kill_often(tmp_path, kills=12, seed=0, seconds=seconds(whole))
    assert same(tmp_path / "run", whole)
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_kills(whole: Path, tmp_path: Path) -> None:
    for seed in range(1, 10):
        (tmp_path / str(seed)).mkdir()
        kill_often(tmp_path / str(seed), kills=12, seed=seed, seconds=seconds(whole))
        assert same(tmp_path / str(seed) / "run", whole)


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGTERM, 143, 0), (signal.SIGINT, 130, 0), (signal.SIGTERM, 143, 2)]
)
def test_a_signal_saves_at_the_next_step_and_the_run_resumes(
    whole: Path, tmp_path: Path, number: signal.Signals, code: int, workers: int
) -> None:
    process = start(tmp_path, *TINY, "hydra.run.dir=run", "save_every_steps=1000", f"num_workers={workers}")
    wait_for_step(tmp_path / "run", 4)
    os.killpg(process.pid, number)  # as a terminal or a cluster does: the loader's workers, too
    process.join()
    output = (tmp_path / "output").read_text()
    assert process.exitcode == code, output
    assert f"stopped by {number.name} at step" in output
    assert "python train.py resume=run" in output
    assert "Traceback" not in output
    stopped = safe_load(tmp_path / "run/checkpoints/last.ckpt")["global_step"]
    assert 4 < stopped < STEPS
    more = start(tmp_path, "resume=run")
    more.join()
    assert more.exitcode == 0, (tmp_path / "output").read_text()
    assert same(tmp_path / "run", whole)
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert steps == list(range(STEPS))  # that of the signal, too


def test_curves_continue_without_overlap_or_gap(whole: Path, tmp_path: Path) -> None:
    process = start(tmp_path, *TINY, "hydra.run.dir=run", "save_every_steps=7")
    wait_for_step(tmp_path / "run", 12)  # past the recovery points at 7 and after the first epoch
    process.kill()
    process.join()
    again = start(tmp_path, "resume=run")
    again.join()
    assert again.exitcode == 0, (tmp_path / "output").read_text()
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert steps == list(range(STEPS))
    assert rows(tmp_path / "run") == rows(whole)
    curves = [events(folder) for folder in (tmp_path / "run", whole)]
    assert curves[0] == curves[1]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar as TensorBoard shows it, but for the clock and the memory, which are never twice the same."""
    reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in reader.Tags()["scalars"] if not tag.startswith(("time/", "memory/"))]
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in tags}


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    first = start(tmp_path, *TINY, "hydra.run.dir=run", "epochs=50")
    wait_for_step(tmp_path / "run", 2)
    second = start(tmp_path, "resume=run")
    second.join()
    first.kill()
    first.join()
    assert second.exitcode == 2
    assert "run: another process is training here" in (tmp_path / "output").read_text()


def test_a_requeued_job_finds_its_run(whole: Path, tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    (commands / "scontrol").chmod(0o755)
    job = {"SLURM_JOB_ID": "4711", "PATH": f"{commands}:{os.environ['PATH']}"}
    first = start(tmp_path, *TINY, "hydra.run.dir=run", environment=job)
    wait_for_step(tmp_path / "run", 4)
    os.kill(first.pid, signal.SIGUSR1)  # type: ignore[arg-type]
    first.join()
    assert first.exitcode == 128 + signal.SIGUSR1, (tmp_path / "output").read_text()
    assert (tmp_path / "called").read_text() == "requeue 4711\n"
    second = start(tmp_path, *TINY, "hydra.run.dir=elsewhere", environment=job | {"SLURM_RESTART_COUNT": "1"})
    second.join()
    assert second.exitcode == 0, (tmp_path / "output").read_text()
    assert same(tmp_path / "run", whole)
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("no permission to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, small_disk: Path) -> None:
    process = start(tmp_path, *TINY, "hydra.run.dir=disk/run", "epochs=200", "trainer.num_sanity_val_steps=0")
    wait_for_step(small_disk / "run", 2)
    with (small_disk / "filler").open("wb", buffering=0) as filler:
        while process.is_alive():  # again and again: the run frees space whenever it replaces a file
            with contextlib.suppress(OSError):
                while filler.write(bytes(4096)):
                    pass
            process.join(0.01)
    output = (tmp_path / "output").read_text().strip().splitlines()[-1]
    assert process.exitcode == 5, output
    assert "disk is full" in output or "No space left" in output
    assert not list(small_disk.rglob("*.partial"))
    for path in (small_disk / "run/checkpoints").glob("*.ckpt"):
        checkpoint.load(path)
    (small_disk / "filler").unlink()
    assert (small_disk / "run/checkpoints/last.ckpt").exists()


def test_a_read_only_folder_fails_before_anything_starts(tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for place in ("disk/run", "disk/${backbone.width_multiplier}"):
        process = start(tmp_path, *TINY, f"hydra.run.dir={place}")
        process.join()
        assert process.exitcode == 5, (tmp_path / "output").read_text()
    assert "step" not in (tmp_path / "output").read_text()


def test_a_loader_worker_that_is_killed_names_the_remedy(tmp_path: Path) -> None:
    process = start(tmp_path, *TINY, "hydra.run.dir=run", "epochs=200", "num_workers=2")
    wait_for_step(tmp_path / "run", 2)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(workers[0]), signal.SIGKILL)  # as the kernel does where memory runs out
    process.join()
    output = (tmp_path / "output").read_text()
    assert process.exitcode == 5, output
    assert "use num_workers=0 or fewer" in output.splitlines()[-1]
    assert "Traceback" not in output
    checkpoint.load(tmp_path / "run/checkpoints/last.ckpt")


def test_full_shared_memory_names_the_remedy(tmp_path: Path) -> None:
    command = ["mount -t tmpfs -o size=64k tmpfs /dev/shm && exec", sys.executable, str(ROOT / "train.py"), *TINY]
    unshare = ["unshare", "--mount", "sh", "-c", " ".join(command) + " hydra.run.dir=run num_workers=1"]
    if subprocess.run([*unshare[:2], "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=False).returncode:
        pytest.skip("no permission to mount")
    done = subprocess.run(unshare, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 5, done.stderr
    assert "--shm-size" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_too_little_memory_suggests_a_smaller_batch(tmp_path: Path) -> None:
    start(tmp_path, "--help").join()  # the fork server has imported everything
    large = ["dataset.train=256", "batch_size=256", "image_size=512", "num_workers=0", "hydra.run.dir=run"]
    process = start(tmp_path, "backbone=mobilenet_v1", *large)
    used = int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024
    resource.prlimit(process.pid, resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    process.join()
    output = (tmp_path / "output").read_text()
    assert process.exitcode == 5, output
    assert output.splitlines()[-1] == "error: out of memory: halve batch_size (or image_size)"
    assert "Traceback" not in output


SAVER = """
import os, sys, time
from pathlib import Path
import torch
from ssd.common.atomic_files import remove_partial_files
from ssd.training.checkpoint_callbacks import AtomicCheckpointIO
torch.set_num_threads(1)
path, kills = Path(sys.argv[1]), int(sys.argv[2])
content = {"weights": torch.arange(500_000.0)}
import random
chance = random.Random(0)
files = set()
for number in range(kills):
    remove_partial_files(path.parent)  # as the next start does
    child = os.fork()
    if child == 0:
        while True:
            AtomicCheckpointIO().save_checkpoint(content, path)
    time.sleep(chance.uniform(0.001, 0.04))
    os.kill(child, 9)
    os.waitpid(child, 0)
    if path.exists():
        loaded = AtomicCheckpointIO().load_checkpoint(path)["weights"]
        assert torch.equal(loaded, content["weights"]), number
        files.add(path.stat().st_mtime_ns)
print("readable", len(files) > kills // 4)
"""


@pytest.mark.parametrize("across", [False, True], ids=["one file system", "two"])
def test_three_hundred_killed_saves_leave_no_unreadable_checkpoint(
    tmp_path: Path, across: bool, request: pytest.FixtureRequest
) -> None:
    """Across two: the run's checkpoints are a link to another disk than the run and the folder for temporary files."""
    checkpoints, temporary = tmp_path / "run" / "checkpoints", tmp_path / "temporary"
    temporary.mkdir()
    checkpoints.parent.mkdir()
    if across:
        checkpoints.symlink_to(request.getfixturevalue("small_disk"))
        assert checkpoints.stat().st_dev != temporary.stat().st_dev
    else:
        checkpoints.mkdir()
    command = [sys.executable, "-c", SAVER, str(checkpoints / "last.ckpt"), "300"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=environment)
    assert (done.stdout, done.stderr) == ("readable True\n", "")
    assert list(temporary.iterdir()) == []
