"""mAP, latency and size of a checkpoint in each runtime: python -m ssd.benchmark checkpoint=FILE; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssd.command import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from omegaconf import DictConfig

    from ssd.data.index import DetectionIndex
    from ssd.deployment.parity import Predict
    from ssd.model import SSD
    from ssd.postprocess import PostProcess
    from ssd.structures import Batch


def benchmark(config: DictConfig) -> None:
    """Prints a table, and writes it as JSON where asked to."""
    import json
    from dataclasses import asdict
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from hydra.utils import instantiate

    from ssd import assemble, files, results, runtime
    from ssd.deployment import timing
    from ssd.prediction.examples import example_pictures
    from ssd.weights import checkpoint

    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    has_data = assemble.has_dataset(config)
    index, batches = assemble.build_evaluation(model, config) if has_data else (None, None)
    postprocess = instantiate(config.postprocess)
    with TemporaryDirectory() as folder:
        made = list(contenders(model, postprocess, Path(folder), index, config.calibration_pictures))
        predictors = {name: predict for name, predict, _ in made}
        timings = timing.race(
            predictors, example_pictures(None), rounds=config.rounds, batch_size=config.throughput_batch
        )
        quality = scores(predictors, batches, model.class_names) if batches is not None else {}
    rows = {name: {"map": quality.get(name), "megabytes": size, **asdict(timings[name])} for name, _, size in made}
    title = (
        f"{model.backbone.name} at {model.image_size} pixels, CPU; pictures/s in batches of {config.throughput_batch}"
    )
    show(rows, title=title)
    if not has_data:
        results.say("mAP, and int8 that is calibrated on your pictures: give dataset=voc dataset.root=DIR")
    if config.output is not None:
        text = json.dumps(rows, indent=2) + "\n"
        files.write_atomically(Path(config.output), lambda temporary: temporary.write_text(text))


def contenders(
    model: SSD, postprocess: PostProcess, folder: Path, index: DetectionIndex | None, pictures: int
) -> Iterator[tuple[str, Predict, float]]:
    """(name, predictor, megabytes) of each runtime that is there; says what the others need."""
    import logging
    from copy import deepcopy

    from ssd import results
    from ssd.errors import ConfigError
    from ssd.prediction.examples import example_pictures, spread_over
    from ssd.predictor import Predictor

    megabytes = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    yield "PyTorch", Predictor(model, postprocess, device="cpu"), megabytes
    compiled = Predictor(deepcopy(model), postprocess, device="cpu")
    compiled.model.compile(dynamic=False)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns that there is no GPU
    try:
        compiled(example_pictures(None)[:1])
    except RuntimeError as error:
        results.say(f"PyTorch compiled: not measured, {str(error).splitlines()[0]}")
    else:
        yield "PyTorch compiled", compiled, megabytes
    try:
        from ssd.deployment.onnx_export import to_onnx
        from ssd.deployment.onnx_predictor import OnnxPredictor
        from ssd.deployment.quantize import quantize_int8

        graph = to_onnx(model, postprocess)
        file = folder / "model.onnx"
        file.write_bytes(graph.SerializeToString())
        yield "ONNX Runtime", OnnxPredictor(file), file.stat().st_size / 1e6
        int8 = folder / "int8.onnx"
        quantize_int8(graph, int8, pictures=spread_over(index, pictures) if index else example_pictures(None))
        yield "ONNX Runtime int8", OnnxPredictor(int8), int8.stat().st_size / 1e6
        yield "OpenVINO", OnnxPredictor(file, runtime="openvino"), file.stat().st_size / 1e6
    except ImportError as error:
        results.say(
            f"ONNX Runtime, OpenVINO: not measured, {error.name} is missing: pip install 'ssd-detector[export]'"
        )
    except ConfigError as error:
        results.say(f"OpenVINO: not measured, {error}")


def scores(
    predictors: dict[str, Predict], batches: Iterable[Batch], class_names: tuple[str, ...]
) -> dict[str, float | None]:
    """mAP of each, one picture at a time, as their latency is measured."""
    from ssd.evaluation import metrics

    def alone(predict: Predict) -> Predict:
        return lambda images: [predict([image])[0] for image in images]

    return {
        name: metrics.score(alone(predict), batches, class_names).get("map") for name, predict in predictors.items()
    }


def show(rows: dict[str, dict[str, Any]], *, title: str) -> None:
    """The table; gains are against the first row."""
    from rich.table import Table

    from ssd import results

    table = Table("", "mAP", "p50 ms", "p95 ms", "gain", "pictures/s", "MB", title=title, title_justify="left")
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
            f"{row['pictures_per_second']:.1f}",
            f"{row['megabytes']:.1f}",
        )
    results.say_table(table)


if __name__ == "__main__":
    run(benchmark, config_name="benchmark")
