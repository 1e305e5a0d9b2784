"""Run folders that do harm, or mean to, when they are resumed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from forked import TINY, run

from hostile_inputs.harness import HostileCase

_kept: list[TemporaryDirectory[str]] = []
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
DEEP = "[" * 100_000 + "]" * 100_000


@cache
def good_run(*settings: str) -> Path:
    """A run of one epoch; it stays as it is."""
    _kept.append(TemporaryDirectory())
    place = Path(_kept[-1].name)
    sizes = ["dataset.train=8", "dataset.val=2", "dataset.test=2", "epochs=1"]
    done = run(place, "train.py", *TINY, *sizes, *settings, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return place / "run"


def resume(change: Callable[[Path], object], *settings: str) -> Callable[[Path], list[str]]:
    """A copy of a good run, changed."""

    def make(folder: Path) -> list[str]:
        change(shutil.copytree(good_run(), folder / "run"))
        return ["train.py", "resume=run", *settings]

    return make


def link(name: str, target: str = "../../outside") -> Callable[[Path], None]:
    """A link in the place of a file or folder of the run; `target` as seen from there."""

    def change(run: Path) -> None:
        remove(run / name)
        (run / name).symlink_to(target)

    return change


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def fifo(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        remove(run / name)
        os.mkfifo(run / name)

    return change


def folder_as(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        remove(run / name)
        (run / name).mkdir()

    return change


def text_as(name: str, text: str | bytes) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def saved(*lines: str) -> Callable[[Path], None]:
    """Saved overrides with these lines more, and no signature of this user."""

    def change(run: Path) -> None:
        path = run / ".hydra/overrides.yaml"
        path.write_text(yaml.safe_dump([*yaml.safe_load(path.read_text()), *lines]))

    return change


def _backticks_and_a_linked_log(run: Path) -> None:
    link("train.log", "../../outside/bashrc")(run)
    saved("objective=`touch ../outside/x`")(run)


def _linked_bomb_of_partial_files(run: Path) -> None:
    for number in range(200):
        (run / f".metrics.csv.{number}.partial").symlink_to("../../outside/passwd")


def _signed_for_another_user(run: Path) -> None:
    saved("download.training_root=../outside/voc", "dataset.root=/home")(run)
    with (run / ".hydra/overrides.yaml").open("a") as file:
        file.write(f"# signature: {'0' * 32}\n")


def _config(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        path = run / ".hydra/config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    return change


def _elsewhere(setting: str, *, name: str, sweep: bool = False) -> Callable[[Path], list[str]]:
    """A new run, or a sweep, in a folder with a link."""

    def make(folder: Path) -> list[str]:
        (folder / name).parent.mkdir(parents=True)
        (folder / name).symlink_to("/".join([".."] * len(Path(name).parts)) + "/outside/bashrc")
        return ["train.py", *(["-m"] if sweep else []), *TINY, f"{setting}={Path(name).parts[0]}"]

    return make


def _sweep_file(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        shutil.copytree(good_run(), folder / "sweep/0")
        (folder / "sweep/multirun.yaml").write_text(text)
        return ["train.py", "resume=sweep/0", "epochs=2"]

    return make


def _priors_file(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "priors.yaml").write_text(text)
        return ["train.py", *TINY, "priors.file=priors.yaml"]

    return make


_OVERRIDES, _CONFIG, _LAST = ".hydra/overrides.yaml", ".hydra/config.yaml", "checkpoints/last.ckpt"
_LINKS = {
    "train.log": "../../outside/bashrc",
    ".lock": "../../outside/passwd",
    "metrics.csv": "../../outside/passwd",
    "model.safetensors": "../../outside/passwd",
    ".hydra": "../../outside",
    "checkpoints": "../../outside/checkpoints",
    "tensorboard": "../../outside",
    _LAST: "../../../outside/passwd",
    "checkpoints/best.ckpt": "/etc/passwd",
    _CONFIG: "../../../outside/passwd",
    _OVERRIDES: "/etc/passwd",
    "tensorboard/events.out.tfevents.9": "/etc/passwd",
    ".hydra/.config.yaml.17.partial": "../../../outside/passwd",
}
_LOUD = "dataset.root=\x1b[31m`touch x`\n$(touch y); touch z"  # a name that a terminal and a shell would obey
_AGAIN = (2,)

CASES = [
    *(
        HostileCase(f"run folder: {name} is a link out of it", resume(link(name, target)), text=name.partition("/")[0])
        for name, target in _LINKS.items()
    ),
    HostileCase("run folder: last.ckpt is a link to itself", resume(link(_LAST, "last.ckpt")), text="last.ckpt"),
    HostileCase(
        "run folder: backticks, and train.log is .bashrc", resume(_backticks_and_a_linked_log), text="train.log"
    ),
    HostileCase("run folder: partial files are links", resume(_linked_bomb_of_partial_files), text="partial"),
    *(
        HostileCase(f"run folder: {name} is a FIFO", resume(fifo(name)), text=name)
        for name in ("train.log", ".lock", "metrics.csv", "model.safetensors", _CONFIG, _OVERRIDES, _LAST, ".hydra")
    ),
    HostileCase("run folder: config.yaml is /dev/zero", resume(link(_CONFIG, "/dev/zero")), text="/dev/zero"),
    *(
        HostileCase(f"run folder: {name} is a folder", resume(folder_as(name)), text=name)
        for name in ("train.log", "metrics.csv", _CONFIG, _OVERRIDES)
    ),
    HostileCase("run folder: last.ckpt is a folder", resume(folder_as(_LAST), "epochs=2"), text="last.ckpt"),
    HostileCase(
        "run folder: checkpoints is a file", resume(lambda run: _file_as(run / "checkpoints")), text="checkpoints"
    ),
    *(
        HostileCase(f"run folder: {name}, {kind}", resume(text_as(name, text)), codes=codes, text=Path(name).name)
        for name, codes in ((_OVERRIDES, (2, 3)), (_CONFIG, (2, 3)))
        for kind, text in {
            "an alias bomb": BOMB,
            "100,000 levels": DEEP,
            "a Python object": "- !!python/object/apply:os.mkdir ['../outside/made']",
            "a key twice": "seed: 0\nseed: 0\n",
            "not UTF-8": b"- \xff\xfe\x00=1",
            "a megabyte": "- a=1\n" * 200_000,
            "a tab": "-\tx: [\n",
        }.items()
    ),
    HostileCase(
        "overrides.yaml: a value of 5,000 brackets", resume(saved(f"dataset.classes={'[' * 5000}")), codes=(2, 3)
    ),
    HostileCase(
        "overrides.yaml: a setting of 100,000 characters", resume(saved(f"objective={'x' * 100_000}")), codes=(2,)
    ),
    *(
        HostileCase(f"overrides.yaml: {line[:40]!r}", resume(saved(line)), codes=_AGAIN, text="resume=run")
        for line in (
            "download.mirrors=[http://127.0.0.1:9/{name}]",
            "download.training_root=../outside/voc",
            "download.annotations_url=http://127.0.0.1:9",
            "dataset.root=../outside/dataset",
            "dataset=voc",
            "dataset=openimages",
            "experiment=voc0712",
            "backbone.weights=imagenet",
            "init_from=../outside/passwd",
            "priors.file=../outside/passwd",
            "logger.csv.path=../outside/metrics.csv",
            "hydra.run.dir=../outside/run",
            "hydra.job_logging.handlers.file.filename=../outside/bashrc",
            "+callbacks.x={_target_: os.mkdir, path: ../outside/made}",
            "callbacks.ema._target_=torch.load",
            "objective=${free_folder:../outside/made}",
            r"objective=$\{free_folder:../outside/made\}",
            "trainer@hydra.job_logging=cpu",
            "trainer.num_nodes=2",
            "trainer.default_root_dir=../outside",
            "+trainer.profiler=advanced",
            "dataset=../../../outside/dataset",
            _LOUD,
        )
    ),
    HostileCase("overrides.yaml: a signature of another user", resume(_signed_for_another_user), codes=(2,)),
    HostileCase(
        "config.yaml: backticks and escapes", resume(_config(**{"`touch x`\n\x1b[31m": "$(touch y)"})), codes=(0,)
    ),
    HostileCase(
        "config.yaml: 100,000 other settings", resume(_config(**{f"x{n}": n for n in range(30_000)})), codes=(0,)
    ),
    *(
        HostileCase(f"metrics.csv: {kind}", resume(text_as("metrics.csv", text), "epochs=2"), codes=codes, text=shown)
        for kind, text, codes, shown in (
            ("without step", "epoch,loss\n0,1\n", (3,), "metrics.csv"),
            ("not UTF-8", b"step,loss\n0,\xff\xfe\n", (3,), "metrics.csv"),
            ("a field of 200,000 characters", "step,loss\n0," + "1" * 200_000, (3,), "metrics.csv"),
            ("a column twice", "step,loss,loss\n0,1,2\n", (3,), "metrics.csv"),
            ("NUL", b"step,loss\n0,\x00\n", (0, 3), ""),
            ("empty", "", (0,), ""),
            ("more fields than columns", "step,loss\n0,1,2,3\n", (0, 3), ""),
        )
    ),
    HostileCase("hydra.run.dir with a linked log", _elsewhere("hydra.run.dir", name="new/train.log"), text="train.log"),
    HostileCase(
        "hydra.sweep.dir with a linked log",
        _elsewhere("hydra.sweep.dir", name="new/0/train.log", sweep=True),
        text="train.log",
    ),
    HostileCase("multirun.yaml: an alias bomb", _sweep_file(BOMB), text="multirun.yaml"),
    HostileCase("multirun.yaml: other types", _sweep_file("hydra: {overrides: {task: 3}}"), codes=(0,)),
    HostileCase("priors.file: an alias bomb", _priors_file(BOMB), codes=(2,), text="priors.yaml"),
    HostileCase("priors.file: 100,000 levels", _priors_file("scales: " + DEEP), codes=(2,), text="priors.yaml"),
    HostileCase("priors.file: other types", _priors_file("scales: {a: [x]}"), codes=(2, 3), text="priors"),
]


def _file_as(path: Path) -> None:
    remove(path)
    path.write_text("x")
