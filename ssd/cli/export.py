"""Writes a checkpoint as ONNX: python -m ssd export checkpoint=FILE output=model.onnx; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from ssd.data.index import DetectionIndex
    from ssd.inference.torch_predictor import Predictor


_RENDERED = "rendered shapes"


def export(config: DictConfig) -> None:
    """Writes the file, once it has shown that it finds what PyTorch finds, and a report `<output>.json` beside it."""
    import json
    from pathlib import Path

    from hydra.utils import instantiate

    from ssd.cli import build
    from ssd.cli.evaluate import read_evaluation_data
    from ssd.common import atomic_files, console, runtime
    from ssd.common.errors import ConfigError
    from ssd.inference.torch_predictor import Predictor
    from ssd.weights import checkpoint

    output = Path(config.output)
    if output.suffix != ".onnx":
        raise ConfigError(f"output={output}: must end in .onnx")
    if config.quantize not in (None, "int8"):
        raise ConfigError(f"quantize={config.quantize}: must be null or int8")
    try:
        from ssd.export.onnx_graph import to_onnx
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'ssd-detector[export]'") from None
    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    needs_data = config.quantize is not None or build.has_dataset(config)
    data = read_evaluation_data(config, model.class_names) if needs_data else None
    predictor = Predictor(model, instantiate(config.postprocess), device="cpu")
    report: dict[str, Any] = {"checkpoint": config.checkpoint}

    def write(temporary: Path) -> None:
        graph = to_onnx(model, predictor.postprocess)
        temporary.write_bytes(graph.SerializeToString())
        report.update(check(predictor, temporary, config, data[0] if data else None))
        if config.quantize and data is not None:
            report["int8"] = quantize(graph, temporary, *data, config)

    atomic_files.write_atomically(output, write)
    text = json.dumps(report, indent=2) + "\n"
    beside = output.with_name(f"{output.name}.json")
    atomic_files.write_atomically(beside, lambda temporary: temporary.write_text(text))
    console.log(f"{output}: {output.stat().st_size / 1e6:.1f} MB; the comparison is in {beside}")


def check(predictor: Predictor, file: Path, config: DictConfig, index: DetectionIndex | None = None) -> dict[str, Any]:
    """Compares the file with PyTorch: on `images`, else on those of the dataset, else on rendered ones.

    Raises:
        MachineError: they disagree.
    """
    import onnxruntime
    import torch

    from ssd.common import console
    from ssd.common.errors import MachineError
    from ssd.export import parity
    from ssd.export.parity import MAX_IMAGES, example_images, spread_over
    from ssd.inference.onnx_predictor import OnnxPredictor

    if config.images is None and index is not None:
        images, source = list(spread_over(index, MAX_IMAGES)), config.dataset.get("root", _RENDERED)
    else:
        images, source = example_images(config.images), config.images or _RENDERED
    found = parity.compare(predictor, OnnxPredictor(file), images)
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    if not found.agrees:
        raise MachineError(
            f"output={config.output}: not written: onnxruntime {versions['onnxruntime']} and torch {versions['torch']} "
            f"disagree on {found.mismatch_rate:.0%} of {found.detections} detections; try other versions of them, "
            "or other images=FOLDER"
        )
    console.log(
        f"agrees with PyTorch on {found.detections} detections in {found.images} images of {source} "
        f"(largest difference {found.largest_difference:.1e}; {found.mismatch_rate:.2%} without their like)"
    )
    if source == _RENDERED:
        console.log("compare on images like yours, too: images=FOLDER")
    return {"versions": versions, "parity": {"graph": "float32", "source": source} | found.as_dict()}


def quantize(
    graph: Any, file: Path, calibration: DetectionIndex, evaluation: DetectionIndex, config: DictConfig
) -> dict[str, Any]:
    """Puts the int8 graph in the place of the float32 one, and measures what that costs.

    Raises:
        DataError: over `max_map_drop`.
    """
    from ssd.common import console
    from ssd.common.errors import DataError
    from ssd.evaluation import evaluator
    from ssd.export.parity import spread_over
    from ssd.export.quantize import quantize_int8
    from ssd.inference.onnx_predictor import OnnxPredictor

    before = OnnxPredictor(file)
    quantize_int8(graph, file, images=spread_over(calibration, config.calibration_images))
    predictors = {"float32": before, "int8": OnnxPredictor(file)}
    settings = {"batch_size": config.batch_size, "num_workers": config.num_workers}
    scores = {
        name: evaluator.mean_ap(predictor, evaluation, class_names=predictor.class_names, **settings)
        for name, predictor in predictors.items()
    }
    shown = (f"{name} {'undefined' if value is None else round(value, 3)}" for name, value in scores.items())
    console.log(f"mAP on {config.split}: {', '.join(shown)}")
    drop = (scores["float32"] or 0.0) - (scores["int8"] or 0.0)
    if drop > config.max_map_drop:
        raise DataError(
            f"output={config.output}: not written: int8 costs {drop:.3f} mAP on {config.split}, over "
            f"max_map_drop={config.max_map_drop}; give more calibration_images, or ship float32"
        )
    return {"split": config.split, "map": scores}
