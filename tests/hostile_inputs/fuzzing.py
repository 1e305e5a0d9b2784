"""Mutations of good files, each read in a limited process: no traceback, no hang, no silent change of a result."""

from __future__ import annotations

import importlib
import os
import random
import re
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forked import fork

from ssd.common.errors import SSDError

MEMORY_BYTES = 3 << 30
SECONDS = 20  # for one file
_NUMBERS = (b"-1", b"0", b"1e999", b"NaN", b"4294967296", b"9" * 30, b"null", b'"x"', b"[]", b"0.5", b"")
_BYTES = (b"\0", b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80", b"\n", b'"', b"\x1b[2J", b"../", b"\xed\xa0\x80")
_EDGE = 6000  # headers and directories are at the ends of a file


@dataclass(frozen=True, slots=True)
class Target:
    """A kind of file, and how it is read.

    Attributes:
        make: writes good files into a folder, and names those to mutate.
        read: reads what is in the folder; the result is a text that differs where the result does.
        mutate: a mutation of the content of a file, and whether the result must then be the same (or refused): damage
            that a checksum covers. Other files may have another result, whose validity `read` checks.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], str]
    mutate: Callable[[bytes, random.Random], tuple[bytes, bool]]


def damage(data: bytes, chance: random.Random) -> bytes:
    """One change somewhere; half of the changes are near the ends."""
    size = len(data)
    start = chance.randrange(size) if chance.random() < 0.5 else chance.choice((0, max(0, size - _EDGE)))
    start = min(size - 1, start + (chance.randrange(min(size, _EDGE)) if chance.random() < 0.7 else 0))
    length = min(size - start, chance.choice((1, 2, 4, 8, 64, 1000)))
    before, block, after = data[:start], data[start : start + length], data[start + length :]
    changes: list[Callable[[], bytes]] = [
        lambda: before + bytes([block[0] ^ 1 << chance.randrange(8)]) + block[1:] + after,
        lambda: before + chance.randbytes(length) + after,
        lambda: before + bytes(length) + after,
        lambda: before + after,
        lambda: before + block + block + after,
        lambda: before + block[::-1] + after,
        lambda: before + chance.choice(_BYTES) + block + after,
        lambda: before + chance.choice(_BYTES) + block[1:] + after,
        lambda: before + after[: len(after) // 2] + block + after[len(after) // 2 :],
        lambda: before,
        lambda: block + after,
    ]
    return chance.choice(changes)()


def change_number(data: bytes, chance: random.Random) -> bytes:
    """Another value in the place of a number of a text, or damage where there is none."""
    numbers = [match.span() for match in re.finditer(rb"\d+(\.\d+)?", data)]
    if not numbers:
        return damage(data, chance)
    start, end = chance.choice(numbers)
    return data[:start] + chance.choice(_NUMBERS) + data[end:]


def text_mutation(data: bytes, chance: random.Random) -> tuple[bytes, bool]:
    """Of a text without checksum: the result may change."""
    return (damage if chance.random() < 0.6 else change_number)(data, chance), False


def run(module: str, name: str, folder: Path, *, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Reads `count` mutations of a target; returns how many had which outcome, and the problems with their seeds."""
    report = folder / "report"
    process = fork(_run, module, name, str(folder), seed, count)
    deadline, lines = 8 * SECONDS, 0  # the first includes the start of the fork server
    while process.is_alive() and deadline > 0:
        process.join(1)
        found = report.read_text().count("\n") if report.exists() else 0
        deadline, lines = (3 * SECONDS if found > lines else deadline - 1), found
    if process.is_alive():
        process.kill()
        process.join()
    outcomes = [line.split("\t") for line in report.read_text().splitlines()] if report.exists() else []
    counts = Counter(kind for _, kind, *_ in outcomes)
    problems = [" ".join(line) for line in outcomes if line[1] not in ("refused", "same", "valid")]
    if process.exitcode != 0 or len(outcomes) < count:
        problems.append(f"seed {seed + len(outcomes)}: the process ended with {process.exitcode}")
    return counts, problems


def _run(module: str, name: str, folder: str, seed: int, count: int) -> None:
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = str(Path(folder, "home"))
    target: Target = importlib.import_module(module).TARGETS[name]
    place = Path(folder, "good")
    place.mkdir(parents=True)
    files = target.make(place)
    expected = target.read(place)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    with Path(folder, "report").open("a", buffering=1) as report:
        for number in range(seed, seed + count):
            chance = random.Random(number)
            file = chance.choice(files)
            good, info = file.read_bytes(), file.stat()
            mutated, exact = target.mutate(good, chance)
            file.write_bytes(mutated)
            os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
            outcome = _outcome(target, place, expected if exact or mutated == good else None)
            report.write(f"{number}\t{outcome}\n")
            file.write_bytes(good)
            os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))


def _outcome(target: Target, place: Path, expected: str | None) -> str:
    start = time.monotonic()
    try:
        found = target.read(place)
    except SSDError:  # its message is escaped where it is printed
        outcome = "refused"
    except Exception:
        outcome = "traceback\t" + repr(traceback.format_exc()[-900:])
    else:
        outcome = "valid" if expected is None else "same" if found == expected else f"changed\t{found[:200]!r}"
    seconds = time.monotonic() - start
    return outcome if seconds < SECONDS else f"slow\t{seconds:.0f} s, {outcome}"
