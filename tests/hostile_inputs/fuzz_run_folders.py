"""Random mutations of a good run folder, and what a resume makes of them.

A mutation is a number: the seed of what is changed, so that a failure is repeated with `outcomes([number], ...)`. Many
run in one forked process, one after another, each with a time limit; the process has a memory limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from forked import ROOT, fork

from hostile_inputs.harness import MEMORY_BYTES, watch_connections

LIMIT_S = 60  # a resume takes one or two on a free processor
FILES = (  # read on a resume, and how often each is changed
    *[".hydra/config.yaml"] * 4,
    *[".hydra/overrides.yaml"] * 6,
    *["metrics.csv"] * 3,
    *["checkpoints/last.ckpt"] * 3,
    *["checkpoints/best.ckpt"] * 2,
    "multirun.yaml",
)
GIVEN = (  # a stranger may have a run of any size
    *("epochs=1", "dataset.train=8", "dataset.val=2", "dataset.test=2", "num_workers=0", "image_size=96"),
    *("batch_size=4", "~callbacks.visualizer", "postprocess.topk_candidates=50", "trainer.devices=1"),
)
TOKENS = (
    *("nan", "-1", "1e999", "9" * 30, "''", "null", "{}", "[]", "[[", "}}", "&a", "*a", "!!python/name:os.system"),
    *("? ", ": ", "=", "${", "$\\{oc.env:HOME\\}", "_target_", "..", "/etc/passwd", "http://127.0.0.1:9/", "\t"),
    *("\x1b[31m", "\ud83d", "\u202e", "`touch x`", "\r", "\n", "\n\n", '"', "'", "#", ",", "<<: *a", "%", "|", "@"),
    *("hydra.run.dir=../outside", "logger.csv.path=../outside/x", "- dataset=voc\n", "true", "0x10", "1_0", "~"),
    *("2020-01-01", "- ", "\x00"),
)


_Change = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, slots=True)
class FuzzOutcome:
    """What became of a mutation; `problem` is empty if all was as it must be."""

    number: int
    what: str
    code: int
    problem: str


def mutate(run: Path, random_: random.Random) -> str:
    """Changes a file of a run folder; what was changed."""
    name = random_.choice(FILES)
    path = run / name
    if random_.random() < 0.05:
        kind = random_.choice([_remove, _as_folder, _as_link, _as_fifo, _as_other])
        kind(path, random_)
        return f"{name} {kind.__name__}"
    data = path.read_bytes() if path.exists() else b"hydra:\n  overrides:\n    task:\n    - epochs=1\n"
    path.write_bytes(mutate_bytes(data, random_) if name.endswith(".ckpt") else mutate_text(data, random_))
    return name


def mutate_bytes(data: bytes, random_: random.Random) -> bytes:
    """Changed bytes, in up to three places."""
    return _mutate(data, random_, _BYTES)


def mutate_text(data: bytes, random_: random.Random) -> bytes:
    """Mostly changed values, tokens and lines."""
    return _mutate(data, random_, (*_BYTES, *_TEXTS * 3))


def _mutate(data: bytes, random_: random.Random, kinds: tuple[_Change, ...]) -> bytes:
    for change in [random_.choice(kinds) for _ in range(random_.choice([1, 1, 1, 2, 3]))]:
        data = change(data, random_)
    return data


def _remove(path: Path, _: random.Random) -> None:
    path.unlink(missing_ok=True)


def _as_folder(path: Path, _: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _as_link(path: Path, random_: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(random_.choice(["/etc/passwd", "/dev/zero", path.name, "nothing", "../../outside/passwd"]))


def _as_fifo(path: Path, _: random.Random) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _as_other(path: Path, random_: random.Random) -> None:
    other = path.parents[path.as_posix().count("/.hydra") + path.as_posix().count("/checkpoints")] / "metrics.csv"
    path.write_bytes(other.read_bytes() if random_.random() < 0.5 else random_.randbytes(500))


def _flip(data: bytes, random_: random.Random) -> bytes:
    result = bytearray(data or b"x")
    for _ in range(random_.choice([1, 1, 4, 30])):
        result[random_.randrange(len(result))] ^= 1 << random_.randrange(8)
    return bytes(result)


def _cut(data: bytes, random_: random.Random) -> bytes:
    start, stop = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + (b"" if random_.random() < 0.3 else data[stop:])


def _insert(data: bytes, random_: random.Random) -> bytes:
    at = random_.randrange(len(data) + 1)
    return data[:at] + random_.randbytes(random_.choice([1, 8, 200])) + data[at:]


def _repeat(data: bytes, random_: random.Random) -> bytes:
    start, stop = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    return data[:stop] + data[start : min(stop, start + 2000)] * random_.choice([1, 2, 50]) + data[stop:]


def _token(data: bytes, random_: random.Random) -> bytes:
    at = random_.randrange(len(data) + 1)
    return data[:at] + random_.choice(TOKENS).encode("utf-8", "surrogatepass") + data[at:]


def _value(data: bytes, random_: random.Random) -> bytes:
    """Another value behind a colon, an equals sign or a comma."""
    at = [index for index, byte in enumerate(data) if byte in b":=,"]
    if not at:
        return data
    start = random_.choice(at) + 1
    stop = min(end for end in (data.find(b"\n", start), data.find(b",", start), len(data)) if end >= start)
    return data[:start] + b" " + random_.choice(TOKENS).encode("utf-8", "surrogatepass") + data[stop:]


def _lines(data: bytes, random_: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    kind, at, other = random_.randrange(4), random_.randrange(len(lines)), random_.randrange(len(lines))
    if kind == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 1:
        lines.insert(other, lines[at])
    elif kind == 2:
        del lines[at]
    else:
        lines[at] = b"  " * random_.randint(1, 60) + lines[at]
    return b"".join(lines)


_BYTES: tuple[_Change, ...] = (_flip, _cut, _insert, _repeat)
_TEXTS: tuple[_Change, ...] = (_token, _token, _value, _value, _value, _lines, _lines)


def outcomes(numbers: Iterable[int], good: Path, place: Path) -> list[FuzzOutcome]:
    """Resumes the mutations, in a process of its own, in the folder `place`."""
    waiting = list(numbers)
    found: list[FuzzOutcome] = []
    report = place / "report.jsonl"
    while waiting:
        report.unlink(missing_ok=True)
        process = fork(_run_all, waiting, str(good), str(place), str(report))
        process.join(LIMIT_S * len(waiting))
        if process.is_alive():
            os.killpg(process.pid or 0, 9)
            process.join()
        lines = report.read_text().splitlines() if report.exists() else []
        new = [FuzzOutcome(**json.loads(line)) for line in lines]
        waiting = waiting[len(new) :]
        if waiting:  # the process died, or was killed
            new.append(FuzzOutcome(waiting.pop(0), "", process.exitcode or 0, f"died with {process.exitcode}"))
        found += new
    return found


def _content(release: Path) -> tuple[object, bytes]:
    """The header of a safetensors file, whose entries come in any order, and the weights."""
    data = release.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:start]), data[start:]


class _OverTimeError(BaseException):
    pass


def _run_all(numbers: list[int], good: str, place: str, report: str) -> None:
    os.setpgid(0, 0)
    os.environ["COLUMNS"] = "150"
    os.environ["XDG_STATE_HOME"] = str(Path(place) / "home")
    connections: list[str] = []
    watch_connections(connections, network=False)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))

    def over(*_: object) -> None:
        raise _OverTimeError

    for number in numbers:
        signal.signal(signal.SIGALRM, over)
        outcome = _run_one(number, Path(good), Path(place), connections)
        with Path(report).open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


def _run_one(number: int, good: Path, place: Path, connections: list[str]) -> FuzzOutcome:
    from ssd.cli.app import main

    inside = place / "inside"
    shutil.rmtree(inside, ignore_errors=True)
    run = shutil.copytree(good, inside / "sweep/run")
    run = run.rename(inside / "run") if number % 10 else run  # multirun.yaml is read beside the folder of a run
    what = mutate(run, random.Random(number))
    if (run / "multirun.yaml").is_file():
        (run / "multirun.yaml").rename(run.parent / "multirun.yaml")
    os.chdir(inside)
    out, errors = place / "stdout", place / "stderr"
    for output, path in ((1, out), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), output)
    sys.argv = [str(ROOT / "train.py"), f"resume={run.relative_to(inside)}", *GIVEN]
    code, in_time = 0, True
    signal.alarm(LIMIT_S)
    try:
        main("train")
    except SystemExit as stop:
        code = int(stop.code or 0)
    except _OverTimeError:
        in_time = False
    finally:
        signal.alarm(0)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):
            stream.flush()
    printed, shown = out.read_text(errors="replace"), errors.read_text(errors="replace")
    release = run / "model.safetensors"
    same = release.is_file() and _content(release) == _content(good / "model.safetensors")
    problems = {
        "over time": not in_time,
        f"exit code {code}": code not in (0, 2, 3, 5),
        "traceback": "Traceback" in printed + shown,
        "control characters": any(ord(char) < 32 and char not in "\n\r\t" for char in printed + shown),
        f"{len(shown.splitlines())} lines": code in (2, 3, 5) and len(shown.splitlines()) != 1,
        f"connected to {connections}": bool(connections),
        "other weights": code == 0 and not same and "changed on resume" not in printed and "last.ckpt _r" not in what,
        "files beside": {path.name for path in inside.iterdir()} - {"run", "sweep", "multirun.yaml"} != set(),
    }
    problem = ", ".join(text for text, wrong in problems.items() if wrong)
    return FuzzOutcome(number, what, code, f"{problem}: {shown[-1500:]}" if problem else "")
