"""The progress display: what a log file gets, and what a terminal gets."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ssd.common import progress
from ssd.common.progress import DownloadProgress, FrameProgress, ProgressDisplay


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("ssd.common.progress.time.monotonic", lambda: now[0])
    return now


def test_a_download_shows_files_bytes_per_second_and_remaining_time(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL_S", 0.0)
    with DownloadProgress("images", total=4) as display:
        clock[0] = 2.0
        display.received(Path("a"), count=3_000_000, share=0.5)
        clock[0] = 4.0
        display.finished(Path("a"))
        clock[0] = 6.0
        display.finished(Path("b"))
    assert capsys.readouterr().out.splitlines() == [
        "images: 0/4 files  0.0/s  1.5 MB/s  ETA 0:00:14",
        "images: 1/4 files  0.2/s  0.8 MB/s  ETA 0:00:12",
        "images: 2/4 files  0.3/s  0.5 MB/s  ETA 0:00:06",
    ]


def test_without_a_terminal_there_is_a_line_every_30_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay("epoch 1", total=200) as display:
        for step in range(1, 101):
            clock[0] = float(step)
            display.show("epoch 1", f"step {step} [/red]", done=step)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["30", "60", "90"]
    assert lines[0] == "epoch 1: step 30 [/red]  ETA 0:02:50"


def test_frames_are_counted_on_stderr_with_or_without_a_total(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL_S", 0.0)
    for total in (4, None):
        clock[0] = 0.0
        with FrameProgress(total=total) as display:
            clock[0] = 2.0
            display.step("street.mp4", objects=3)
        assert display.summary() == "1 frames, 3 objects shown, 0.5 frames/s"
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == ["street.mp4: 1/4 frames  0.5/s  ETA 0:00:06", "street.mp4: 1 frames  0.5/s"]


def test_a_resumed_run_estimates_from_its_own_speed(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("epoch", total=100, start=90) as display:
        clock[0] = 40.0
        display.show("epoch", "", done=94)
    assert "ETA 0:01:00" in capsys.readouterr().out


def test_a_quiet_display_prints_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("epoch", total=2, quiet=True) as display:
        clock[0] = 60.0
        display.show("epoch", "", done=1)
        display.print("a row")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with ProgressDisplay("epoch [1]", total=4) as display:
        assert not display.due
        display.show("epoch [1]", "loss 2.50", done=2)
        display.print("a row [/red]")
    shown = screen.getvalue()
    assert "epoch [1]" in shown
    assert "━" in shown
    assert "loss 2.50  ETA 0:00:0" in shown
    assert "a row [/red]\n" in shown
