"""mAP, latency and size of a checkpoint in each runtime: python -m ssd benchmark checkpoint=FILE; see --help."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ssd.common.images import ImageArray
from ssd.export.parity import Predict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from omegaconf import DictConfig

    from ssd.data.index import DetectionIndex
    from ssd.export.parity import Predict
    from ssd.model.postprocess import PostProcess
    from ssd.model.ssd import SSD


_WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one predictor: milliseconds for one image, images a second in batches."""

    p50_ms: float
    p95_ms: float
    images_per_second: float


def time_interleaved(
    predictors: Mapping[str, Predict], images: Sequence[ImageArray], *, rounds: int, batch_size: int
) -> dict[str, Timing]:
    """Lets all take their turn in each round; a fifth of the rounds is enough for the batches."""
    alone = [[image] for image in images]
    batch = [images[position % len(images)] for position in range(batch_size)]
    latency = _take_turns(predictors, alone, rounds=rounds)
    batched = _take_turns(predictors, [batch], rounds=-(-rounds // 5))
    return {
        name: Timing(
            p50_ms=1e3 * float(np.median(latency[name])),
            p95_ms=1e3 * float(np.quantile(latency[name], 0.95)),
            images_per_second=batch_size / float(np.median(batched[name])),
        )
        for name in predictors
    }


def _take_turns(
    predictors: Mapping[str, Predict], inputs: Sequence[Sequence[ImageArray]], *, rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in predictors}
    for turn in range(_WARM_UP + rounds):
        for name, predict in predictors.items():
            start = time.perf_counter()
            predict(inputs[turn % len(inputs)])
            if turn >= _WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def benchmark(config: DictConfig) -> None:
    """Prints a table, and writes it as JSON where asked to."""
    import json
    from dataclasses import asdict
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from hydra.utils import instantiate

    from ssd.cli import build
    from ssd.cli.evaluate import read_evaluation_data
    from ssd.common import atomic_files, console, runtime
    from ssd.export.parity import example_images
    from ssd.weights import checkpoint

    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    has_data = build.has_dataset(config)
    calibration, evaluation = read_evaluation_data(config, model.class_names) if has_data else (None, None)
    postprocess = instantiate(config.postprocess)
    with TemporaryDirectory() as folder:
        made = list(build_runtimes(model, postprocess, Path(folder), calibration, config.calibration_images))
        predictors = {name: predict for name, predict, _ in made}
        timings = time_interleaved(
            predictors, example_images(None), rounds=config.rounds, batch_size=config.throughput_batch
        )
        quality = scores(predictors, evaluation, model.class_names) if evaluation is not None else {}
    rows = {name: {"map": quality.get(name), "megabytes": size, **asdict(timings[name])} for name, _, size in made}
    title = f"{model.backbone.name} at {model.image_size} pixels, CPU; images/s in batches of {config.throughput_batch}"
    show(rows, title=title)
    if not has_data:
        console.log("mAP, and int8 that is calibrated on your images: give dataset=voc dataset.root=DIR")
    if config.output is not None:
        text = json.dumps(rows, indent=2) + "\n"
        atomic_files.write_atomically(Path(config.output), lambda temporary: temporary.write_text(text))


def build_runtimes(
    model: SSD, postprocess: PostProcess, folder: Path, index: DetectionIndex | None, images: int
) -> Iterator[tuple[str, Predict, float]]:
    """(name, predictor, megabytes) of each runtime that is there; says what the others need."""
    import logging
    from copy import deepcopy

    from ssd.common import console
    from ssd.common.errors import ConfigError
    from ssd.export.parity import example_images, spread_over
    from ssd.inference.torch_predictor import Predictor

    megabytes = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    yield "PyTorch", Predictor(model, postprocess, device="cpu"), megabytes
    compiled = Predictor(deepcopy(model), postprocess, device="cpu")
    compiled.model.compile(dynamic=False)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    try:
        compiled(example_images(None)[:1])
    except RuntimeError as error:
        console.log(f"PyTorch compiled: not measured, {str(error).splitlines()[0]}")
    else:
        yield "PyTorch compiled", compiled, megabytes
    try:
        from ssd.export.onnx_graph import to_onnx
        from ssd.export.quantize import quantize_int8
        from ssd.inference.onnx_predictor import OnnxPredictor

        graph = to_onnx(model, postprocess)
        file = folder / "model.onnx"
        file.write_bytes(graph.SerializeToString())
        yield "ONNX Runtime", OnnxPredictor(file), file.stat().st_size / 1e6
        int8 = folder / "int8.onnx"
        quantize_int8(graph, int8, images=spread_over(index, images) if index else example_images(None))
        yield "ONNX Runtime int8", OnnxPredictor(int8), int8.stat().st_size / 1e6
        yield "OpenVINO", OnnxPredictor(file, runtime="openvino"), file.stat().st_size / 1e6
    except ImportError as error:
        console.log(
            f"ONNX Runtime, OpenVINO: not measured, {error.name} is missing: pip install 'ssd-detector[export]'"
        )
    except ConfigError as error:
        console.log(f"OpenVINO: not measured, {error}")


def scores(
    predictors: dict[str, Predict], index: DetectionIndex, class_names: tuple[str, ...]
) -> dict[str, float | None]:
    """mAP of each predictor, one image at a time, as its latency is measured."""
    from ssd.evaluation.evaluator import mean_ap

    return {
        name: mean_ap(predict, index, class_names=class_names, batch_size=1, num_workers=None)
        for name, predict in predictors.items()
    }


def show(rows: dict[str, dict[str, Any]], *, title: str) -> None:
    """The table; gains are against the first row."""
    from rich.table import Table

    from ssd.common import console

    table = Table("", "mAP", "p50 ms", "p95 ms", "gain", "images/s", "MB", title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    first = next(iter(rows.values()))["p50_ms"]
    for name, row in rows.items():
        table.add_row(
            name,
            "-" if row["map"] is None else f"{row['map']:.3f}",
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{first / row['p50_ms']:.2f}x",
            f"{row['images_per_second']:.1f}",
            f"{row['megabytes']:.1f}",
        )
    console.log_table(table)
