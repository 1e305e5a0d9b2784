"""backbone.weights=auto: resolved once, from the cache or a server, and what the plan then counts on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from composed import compose
from forked import run
from http_server import FaultyServer, serve
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig
from safetensors.torch import save
from voc_files import add, add_list, object_xml

from ssd.cli import build, plan_run
from ssd.cli.train import as_plain
from ssd.model.backbones import MobileNetV1
from ssd.weights.published import PUBLISHED, cache_path
from ssd.weights.transfer import load_base

NAME, PATH = "mobilenet_v1_imagenet", "/model.pth"
OWN = ["backbone=mobilenet_v1", "dataset=voc", "dataset.root=data", "image_size=96", "num_workers=0"]
RANDOM_STEPS, PRETRAINED_STEPS = 3_000, 1_200  # the least, for a handful of images


@pytest.fixture
def weights() -> bytes:
    """The base net, as a file of another program has it."""
    buffer = io.BytesIO()
    torch.save({f"model.{key}": value for key, value in MobileNetV1().base.state_dict().items()}, buffer)
    return buffer.getvalue()


@pytest.fixture
def server(weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """Has the published file; the current folder has a data set, and the cache is empty."""
    for split, names in {"train": ["a", "b"], "val": ["c"], "test": ["d"]}.items():
        for name in names:
            add(tmp_path / "data", name, object_xml())
        add_list(tmp_path / "data", split, names)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    with serve() as http:
        http.files[PATH] = weights
        publish(monkeypatch, f"{http.url}{PATH}")
        yield http


def publish(monkeypatch: pytest.MonkeyPatch, url: str, *, sha256: str | None = None) -> None:
    entry = replace(PUBLISHED[NAME], urls=(url,), sha256=sha256, file_name="mobilenet.pth")
    monkeypatch.setitem(PUBLISHED, NAME, entry)


def filled(*overrides: str, saved: dict[str, object] | None = None) -> DictConfig:
    """The settings of a run after its plan; of a resumed one with `saved`."""
    config = compose(*OWN, *overrides)
    if saved is not None:
        plan_run.inherit(config, saved)
    Path("run/.hydra").mkdir(parents=True, exist_ok=True)
    plan_run.fill(config, build.read_dataset(config), None if config.dry_run else Path("run"))
    return config


def planned_weights() -> object:
    return yaml.safe_load(Path("run/plan.yaml").read_text())["backbone.weights"]["value"]


def test_they_are_downloaded_once_and_the_plan_counts_on_them(server: FaultyServer) -> None:
    for _ in range(2):
        config = filled()
        assert (config.backbone.weights, config.steps, planned_weights()) == ("imagenet", PRETRAINED_STEPS, "imagenet")
    assert server.count(PATH) == 1


def test_a_file_put_into_the_cache_needs_no_server_and_no_right_to_write(server: FaultyServer, weights: bytes) -> None:
    cache_path(NAME).parent.mkdir(parents=True)
    cache_path(NAME).write_bytes(weights)
    assert filled().backbone.weights == "imagenet"
    assert not server.requests
    assert list(cache_path(NAME).parent.iterdir()) == [cache_path(NAME)]


@pytest.mark.parametrize("fault", ["missing", "checksum", "page", "other weights", "refused", "cache", "offline"])
def test_without_them_the_plan_counts_on_random_ones(
    server: FaultyServer, fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = io.BytesIO()
    torch.save({"model.0.0.weight": torch.zeros(1)}, other)
    match fault:
        case "missing":
            del server.files[PATH]
        case "checksum":
            publish(monkeypatch, f"{server.url}{PATH}", sha256="0" * 8)
        case "page":
            server.fail(PATH, ["html"])
        case "other weights":
            server.files[PATH] = other.getvalue()
        case "refused":
            publish(monkeypatch, f"http://127.0.0.1:1{PATH}")
        case "cache":
            Path("cache").write_text("a file in the place of the folder")
        case "offline":
            monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with caplog.at_level("INFO", logger="ssd"):
        config = filled()
    assert (config.backbone.weights, config.steps, planned_weights()) == (None, RANDOM_STEPS, None)
    (warning,) = [line for line in caplog.messages if "warning" in line]
    assert "\n" not in warning
    assert "give backbone.weights=FILE or init_from=FILE" in warning
    assert "mobilenet.pth" in warning


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset=shapes", "dataset.train=8", "dataset.val=2", "dataset.test=2"],
        ["init_from=mobilenet_v1_voc"],
        ["backbone.weights=null"],
        ["backbone.width_multiplier=0.5"],
    ],
)
def test_nothing_is_downloaded_where_they_are_not_for(server: FaultyServer, overrides: list[str]) -> None:
    own = [item for item in OWN if "dataset=shapes" not in overrides or not item.startswith("dataset")]
    config = compose(*own, *overrides)
    plan_run.fill(config, build.read_dataset(config), None)
    assert config.backbone.weights is None
    assert not server.requests


def test_a_dry_run_downloads_nothing(server: FaultyServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="ssd"):
        assert filled("dry_run=true").steps == PRETRAINED_STEPS
    assert "to be downloaded by the run itself" in caplog.text.replace("\n", " ")
    assert not server.requests


def test_initial_random_numbers_do_not_depend_on_how_they_are_chosen(server: FaultyServer) -> None:
    del server.files[PATH]
    states = []
    for given in ("auto", "null"):
        torch.manual_seed(0)
        filled(f"backbone.weights={given}")
        states.append(torch.random.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("saved", "expected", "requests"),
    [
        ({"plan": True, "backbone": {"weights": "imagenet"}}, "imagenet", 0),
        ({"plan": True, "backbone": {"weights": None}}, None, 0),
        ({"plan": True, "backbone": {"weights": "/etc/passwd"}}, None, 0),  # of a stranger: no file is inherited
        ({"plan": True, "backbone": {"weights": "auto"}}, "imagenet", 1),  # stopped before its plan
        ({"plan": True}, None, 0),
        ({}, None, 0),
    ],
)
def test_a_resumed_run_has_the_saved_value(
    server: FaultyServer, saved: dict[str, object], expected: str | None, requests: int
) -> None:
    assert filled(saved=saved).backbone.weights == expected
    assert len(server.requests) == requests


def test_other_processes_of_a_run_have_the_plan_of_the_first(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = server.files.pop(PATH)
    first = filled()
    Path("run/.hydra/config.yaml").write_text(yaml.safe_dump(as_plain(first)))
    server.files[PATH] = weights  # the network is back
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    second = filled()
    assert second == first
    assert server.count(PATH) == 1


def test_a_run_and_its_resume(tmp_path: Path, server: FaultyServer, weights: bytes) -> None:
    """From a file in the cache, without a server; the resume does not look for it."""
    folder = tmp_path / "own" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "mobilenetv1_100.ra4_e3600_r224_in1k.safetensors").write_bytes(save(torch.load(io.BytesIO(weights))))
    environment = {"TORCH_HOME": str(tmp_path / "own"), "HF_HUB_OFFLINE": "1"}
    done = run(tmp_path, "train.py", *OWN, "logger=null", "steps=1", "hydra.run.dir=run", environment=environment)
    assert done.returncode == 0, done.stderr
    assert "│ backbone.weights " in done.stdout
    assert "tensors loaded from imagenet" in done.stdout
    assert "the initial weights are random" not in done.stdout
    assert planned_weights() == "imagenet"
    for file in folder.iterdir():
        file.unlink()
    more = run(tmp_path, "train.py", "resume=run", "steps=2", environment=environment)
    assert more.returncode == 0, more.stderr
    assert "imagenet" not in more.stdout
    assert yaml.safe_load(Path("run/.hydra/config.yaml").read_text())["backbone"]["weights"] == "imagenet"


def test_a_folder_named_imagenet_is_not_taken_for_a_file(server: FaultyServer) -> None:
    Path("imagenet").mkdir()
    assert load_base(MobileNetV1(), "imagenet").endswith(" 0 fresh")
    assert hashlib.sha256(server.files[PATH]).hexdigest() in next(cache_path(NAME).parent.glob("*.sha256")).read_text()
