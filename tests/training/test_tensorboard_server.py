"""A run in a real TensorBoard server, and its page in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from test_tensorboard import TINY

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a TensorBoard server that has loaded a tiny run."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "hydra.run.dir=runs/one"]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "runs", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_until_read(address)
            yield address
        finally:
            server.terminate()


def wait_until_read(address: str) -> None:
    for _ in range(120):
        try:
            if "best/map" in names(get(address, "scalars/tags")):
                return
        except (URLError, ConnectionError):  # not started yet
            pass
        time.sleep(0.5)
    pytest.fail("TensorBoard has not read the run within a minute")


def get(address: str, route: str, **query: str) -> Any:
    with urlopen(f"{address}data/plugin/{route}?{urlencode(query)}", timeout=20) as answer:
        return json.loads(answer.read())


def post(address: str, route: str, query: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = Request(f"{address}data/plugin/{route}", data=json.dumps(query).encode(), headers=headers)
    with urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def names(runs: dict[str, Any]) -> set[str]:
    """The tags of the only run."""
    return set().union(*runs.values())


def test_the_server_has_everything_a_run_writes(address: str) -> None:
    scalars = names(get(address, "scalars/tags"))
    assert {"train/loss", "train/skipped_steps", "val/map", "errors/Miss", "time/visualization_share"} <= scalars
    charts = get(address, "custom_scalars/layout")["category"][0]
    assert charts["title"] == "Overview"
    patterns = {chart["title"]: chart["multiline"]["tag"] for chart in charts["chart"]}
    assert any(re.match(tag, "val/map") for tag in patterns["mAP"])
    assert {"images/1", "charts/confusion"} <= names(get(address, "images/tags"))
    assert "precision_recall/all classes" in names(get(address, "pr_curves/tags"))
    assert {"run/configuration", "run/command"} <= {
        tag.removesuffix("/text_summary") for tag in names(get(address, "text/tags"))
    }
    columns = post(address, "hparams/experiment", {"experimentName": "", "hparamsLimit": 99})["hparamInfos"]
    assert {"backbone", "optimizer.lr", "batch_size"} <= {column["name"] for column in columns}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_page_shows_the_runs_numbers_and_images(address: str, tmp_path: Path) -> None:
    """The time series tab opens its first groups; the other tabs are in shadow trees, which a dump leaves out."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1600,3000"]
    command = [str(CHROMIUM), *flags, "--virtual-time-budget=20000", "--dump-dom", f"{address}#timeseries"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", "", dom, flags=re.DOTALL))
    text = re.sub(r"\s+", " ", text).replace(" /", "/")
    for tag in ("one/tensorboard", "best/map", "charts/confusion", "charts/f1_by_threshold"):
        assert tag in text, tag
    for group in ("errors", "matching", "train", "val"):
        assert re.search(rf" {group} \d+ cards", text), group
    assert dom.count("data/plugin/timeseries/imageData?") >= 2
