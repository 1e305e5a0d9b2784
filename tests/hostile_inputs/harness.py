"""Runs a command on a hostile input, under limits, and records what it did.

Each case is made by the test in a folder of its own. The command runs in a forked process whose address space and
processor time are limited, in which every connection to the network but those to a server of the case is refused and
counted, and around which files are put that must stay as they are.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forked import ROOT, fork

MEMORY_BYTES = 3 << 30  # above what a process has that has imported everything
CPU_S = 20
_OUTSIDE = {"bashrc": "# mine\n", "dataset/a.jpg": "not yours", "checkpoints/.mine.partial": "kept", "passwd": "root:x"}


@dataclass(frozen=True, slots=True)
class HostileCase:
    """An input that does harm, or means to.

    Attributes:
        name: what it is, for the table.
        make: creates it in an empty folder, in which the command then runs, and gives the command line:
            `["train.py", "dataset.root=data"]` or `["inspect", "dataset.root=data"]`. Beside that folder is another,
            `../outside`, with files that nothing may change.
        codes: the exit codes that are right.
        text: what the one line on stderr must contain, such as the name of the file.
        network: the command may connect to loopback addresses.
    """

    name: str
    make: Callable[[Path], list[str]]
    codes: tuple[int, ...] = (3,)
    text: str = ""
    network: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the command did: `memory_mib` is its peak above the start; `connections` are addresses."""

    code: int | None
    seconds: float
    memory_mib: float
    stdout: str
    stderr: str
    changed: list[str]
    connections: list[str]


def run_case(case: HostileCase, folder: Path) -> Outcome:
    """Makes the input in a new folder below `folder` and runs the command there, for a minute at most."""
    place, outside = folder / "inside", folder / "outside"
    place.mkdir()
    for name, text in _OUTSIDE.items():
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text(text)
    command = case.make(place)
    before = snapshot(outside)
    out, errors, report = folder / "stdout", folder / "stderr", folder / "report.json"
    start = time.monotonic()
    process = fork(_run_limited, str(place), command, str(out), str(errors), str(report), case.network)
    process.join(60)
    if process.is_alive():
        os.killpg(process.pid or 0, 9)
        process.join()
    seconds = time.monotonic() - start
    measured: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    return Outcome(
        code=process.exitcode,
        seconds=seconds,
        memory_mib=measured.get("memory_mib", float("nan")),
        stdout=out.read_text(errors="replace"),
        stderr=errors.read_text(errors="replace"),
        changed=sorted(before.items() ^ snapshot(outside).items()),
        connections=measured.get("connections", []),
    )


def problems(case: HostileCase, outcome: Outcome) -> list[str]:
    """What is wrong with the outcome of a case; empty if it is as it must be."""
    lines = outcome.stderr.splitlines()
    found = {
        f"exit code {outcome.code}, not {case.codes}": outcome.code not in case.codes,
        "a traceback": "Traceback" in outcome.stderr + outcome.stdout,
        "control characters": any(ord(char) < 32 and char not in "\n\r\t" for char in outcome.stderr + outcome.stdout),
        f"{len(lines)} lines on stderr": len(lines) != 1 and outcome.code in (2, 3, 5),
        f"no {case.text!r} on stderr": case.text not in outcome.stderr,
        f"changed outside: {outcome.changed}": bool(outcome.changed),
        f"connected to {outcome.connections}": bool(outcome.connections),
        f"{outcome.seconds:.0f} s": outcome.seconds > 30,
    }
    return [f"{text}; stderr: {outcome.stderr[-600:]}" for text, wrong in found.items() if wrong]


def snapshot(folder: Path) -> dict[str, str]:
    """Name, kind, size, time and content of everything below a folder."""
    result = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        content = path.read_bytes().hex()[:200] if path.is_file() and not path.is_symlink() else ""
        result[str(path.relative_to(folder))] = f"{info.st_mode} {info.st_mtime_ns} {content}"
    return result


def _run_limited(folder: str, command: list[str], out: str, errors: str, report: str, network: bool) -> None:
    os.chdir(folder)
    os.setpgid(0, 0)
    os.environ["COLUMNS"] = "150"
    os.environ["XDG_STATE_HOME"] = os.environ["XDG_CACHE_HOME"] = str(Path(folder).parent / "home")
    connections: list[str] = []
    watch_connections(connections, network=network)
    for number, output in enumerate((out, errors), start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    _reset_peak()
    before = _status_mib("VmHWM")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 2))
    script, *arguments = command
    try:
        if script.endswith(".py"):
            sys.argv = command
            runpy.run_path(str(ROOT / script), run_name="__main__")
        else:
            sys.argv = ["ssd", script, *arguments]
            runpy.run_module("ssd", run_name="__main__")
    finally:
        peak = _status_mib("VmHWM") - before
        Path(report).write_text(json.dumps({"memory_mib": peak, "connections": connections}))


def watch_connections(connections: list[str], *, network: bool) -> None:
    """Refuses and records connections of this process, and names that it looks up, but those to loopback addresses."""

    def is_allowed(host: object) -> bool:
        return network and (host in ("localhost", "::1") or str(host).startswith("127."))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            address = arguments[1]
            host = address[0] if isinstance(address, tuple) else None
        elif event == "socket.getaddrinfo":
            host = arguments[0]
        else:
            return
        if host is not None and not is_allowed(host):
            connections.append(str(host))
            raise socket.gaierror(-2, "the network is not to be used")

    sys.addaudithook(watch)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))
