"""ssd benchmark: mAP, latency, throughput and size of a checkpoint in each runtime; see --help."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.cli import build
from ssd.cli.evaluate import read_evaluation_data
from ssd.cli.sample_images import images_of, rendered_images
from ssd.common import atomic_files, console, runtime
from ssd.common.errors import ConfigError
from ssd.common.tables import Table
from ssd.data.index import DetectionIndex
from ssd.evaluation.evaluator import mean_ap
from ssd.export.timing import time_interleaved
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.predictor import Predict
from ssd.inference.torch_predictor import TorchPredictor
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD
from ssd.weights import checkpoint

Runtimes = Iterator[tuple[str, Predict, float]]  # name, predictor, megabytes


def benchmark(config: DictConfig) -> None:
    """Prints a table; also writes it as JSON to `output`, if given."""
    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    has_data = build.has_dataset(config)
    calibration, evaluation = read_evaluation_data(config, model.class_names) if has_data else (None, None)
    postprocess = instantiate(config.postprocess)
    with TemporaryDirectory() as folder:
        runtimes = list(build_runtimes(model, postprocess, Path(folder), calibration, config.calibration_images))
        predictors = {name: predict for name, predict, _ in runtimes}
        timings = time_interleaved(
            predictors, rendered_images(), rounds=config.rounds, batch_size=config.throughput_batch
        )
        quality = scores(predictors, evaluation, model.class_names) if evaluation is not None else {}
    rows = {name: {"map": quality.get(name), "megabytes": size, **asdict(timings[name])} for name, _, size in runtimes}
    title = f"{model.backbone.name} at {model.image_size} pixels, CPU; images/s in batches of {config.throughput_batch}"
    show(rows, title=title)
    if not has_data:
        console.log("for mAP, and int8 calibrated on your images: dataset=voc dataset.root=DIR")
    if config.output is not None:
        text = json.dumps(rows, indent=2) + "\n"
        atomic_files.write_atomically(Path(config.output), lambda temporary: temporary.write_text(text))


def build_runtimes(
    model: SSD, postprocess: PostProcess, folder: Path, index: DetectionIndex | None, calibration_images: int
) -> Runtimes:
    """Yields the installed runtimes; logs what the others need. Exported files go into `folder`."""
    yield from _torch_runtimes(model, postprocess)
    try:
        yield from _onnx_runtimes(model, postprocess, folder, index, calibration_images)
    except ImportError as error:
        console.log(
            f"ONNX Runtime, OpenVINO: not measured: {error.name} is missing: pip install 'ssd-detector[export]'"
        )
    except ConfigError as error:
        console.log(f"OpenVINO: not measured: {error}")


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


def _onnx_runtimes(
    model: SSD, postprocess: PostProcess, folder: Path, index: DetectionIndex | None, calibration_images: int
) -> Runtimes:
    from ssd.export.onnx_graph import to_onnx
    from ssd.export.quantize import quantize_int8

    graph = to_onnx(model, postprocess)
    file, int8 = folder / "model.onnx", folder / "int8.onnx"
    file.write_bytes(graph.SerializeToString())
    yield "ONNX Runtime", OnnxPredictor(file), file.stat().st_size / 1e6
    quantize_int8(graph, int8, images=images_of(index, calibration_images) if index else rendered_images())
    yield "ONNX Runtime int8", OnnxPredictor(int8), int8.stat().st_size / 1e6
    yield "OpenVINO", OnnxPredictor(file, runtime="openvino"), file.stat().st_size / 1e6


def scores(
    predictors: dict[str, Predict], index: DetectionIndex, class_names: tuple[str, ...]
) -> dict[str, float | None]:
    """mAP of each predictor, one image at a time, as its latency is measured."""
    return {
        name: mean_ap(predict, index, class_names=class_names, batch_size=1) for name, predict in predictors.items()
    }


def show(rows: dict[str, dict[str, Any]], *, title: str) -> None:
    """Prints the table; `speedup` is relative to the first row."""
    columns = ("", "mAP", "p50 ms", "p95 ms", "speedup", "images/s", "MB")
    first = next(iter(rows.values()))["p50_ms"]
    cells = [
        (
            name,
            row["map"],
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms")),
            f"{first / row['p50_ms']:.2f}x",
            *(f"{row[key]:.1f}" for key in ("images_per_second", "megabytes")),
        )
        for name, row in rows.items()
    ]
    Table(title, columns, cells).log()
