"""ssd benchmark: mAP, latency, throughput and size of a checkpoint in each runtime; see --help."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.cli import build
from ssd.cli.evaluate import read_evaluation_data
from ssd.cli.explain import missing_package
from ssd.cli.sample_images import rendered_images, sample_images
from ssd.common import atomic_files, console, runtime
from ssd.common.errors import ConfigError
from ssd.common.images import ImageArray
from ssd.common.tables import Table
from ssd.evaluation.evaluator import mean_ap
from ssd.export.timing import time_interleaved
from ssd.inference import onnx_file
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.predictor import Predictor
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

Runtimes = Iterator[tuple[str, Predictor, float]]  # name, predictor, megabytes


def benchmark(config: DictConfig) -> None:
    """Prints a table; also writes it as JSON to `output`, if given."""
    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    calibration: Iterable[ImageArray] = rendered_images()
    evaluation = None
    if build.has_dataset(config):
        train, evaluation = read_evaluation_data(config, model.class_names)
        calibration = sample_images(train, config.calibration_images)
    rows: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as folder:
        runtimes = list(build_runtimes(model, instantiate(config.postprocess), Path(folder), calibration))
        timings = time_interleaved(
            {name: predictor for name, predictor, _ in runtimes},
            rendered_images(),
            rounds=config.rounds,
            batch_size=config.throughput_batch,
        )
        for name, predictor, megabytes in runtimes:
            score = None
            if evaluation is not None:  # one image at a time, as latency is measured
                score = mean_ap(predictor, evaluation, class_names=model.class_names, batch_size=1)
            rows[name] = {"map": score, "megabytes": megabytes, **asdict(timings[name])}
    title = f"{model.backbone.name} at {model.image_size} pixels, CPU; images/s in batches of {config.throughput_batch}"
    show(rows, title=title)
    if evaluation is None:
        console.log("for mAP, and int8 calibrated on your images: dataset=voc dataset.root=DIR")
    if config.output is not None:
        text = json.dumps(rows, indent=2) + "\n"
        atomic_files.write_atomically(Path(config.output), text)


def build_runtimes(model: SSD, postprocess: PostProcess, folder: Path, calibration: Iterable[ImageArray]) -> Runtimes:
    """Yields the installed runtimes; logs what the others need.

    Exported files go into `folder`; int8 is calibrated on the images `calibration`.
    """
    yield from _torch_runtimes(model, postprocess)
    try:
        yield from _onnx_runtimes(model, postprocess, folder, calibration)
    except ImportError as error:
        package = missing_package(error)
        console.log(f"ONNX Runtime, OpenVINO: not measured: {package} is missing: pip install 'ssd-detector[export]'")
    except ConfigError:
        console.log("OpenVINO: not measured: openvino is missing: pip install 'ssd-detector[openvino]'")


def _torch_runtimes(model: SSD, postprocess: PostProcess) -> Runtimes:
    megabytes = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    yield "PyTorch", TorchPredictor(model, postprocess, device="cpu"), megabytes
    compiled = TorchPredictor(deepcopy(model), postprocess, device="cpu")
    compiled.model.compile(dynamic=False)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    try:
        compiled(rendered_images()[:1])
    except RuntimeError as error:
        console.log(f"PyTorch compiled: not measured: {str(error).splitlines()[0]}")
    else:
        yield "PyTorch compiled", compiled, megabytes


def _onnx_runtimes(model: SSD, postprocess: PostProcess, folder: Path, calibration: Iterable[ImageArray]) -> Runtimes:
    from ssd.export.onnx_graph import to_onnx
    from ssd.export.quantize import quantize_int8

    graph = to_onnx(model, postprocess)
    file, int8 = folder / "model.onnx", folder / "int8.onnx"
    file.write_bytes(onnx_file.seal(graph))
    yield "ONNX Runtime", OnnxPredictor(file), file.stat().st_size / 1e6
    quantize_int8(graph, int8, images=calibration)
    yield "ONNX Runtime int8", OnnxPredictor(int8), int8.stat().st_size / 1e6
    yield "OpenVINO", OnnxPredictor(file, runtime="openvino"), file.stat().st_size / 1e6


def show(rows: dict[str, dict[str, Any]], *, title: str) -> None:
    """Prints the table; `speedup` is relative to the first row."""
    columns = ("", "mAP", "p50 ms", "p95 ms", "speedup", "images/s", "MB")
    first = next(iter(rows.values()))["p50_ms"]
    cells = []
    for name, row in rows.items():
        p50, p95, throughput, size = (
            f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "images_per_second", "megabytes")
        )
        cells.append((name, row["map"], p50, p95, f"{first / row['p50_ms']:.2f}x", throughput, size))
    Table(title, columns, cells).log()
