"""ssd export: writes a checkpoint as ONNX; see --help."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.cli import build
from ssd.cli.evaluate import read_evaluation_data
from ssd.cli.explain import missing_package
from ssd.cli.sample_images import MAX_IMAGES, read_images, rendered_images, sample_images
from ssd.common import atomic_files, console, runtime
from ssd.common.errors import ConfigError, DataError, MachineError
from ssd.common.images import ImageArray
from ssd.data.index import DetectionIndex
from ssd.evaluation import evaluator
from ssd.export import parity
from ssd.inference import onnx_file
from ssd.inference.onnx_predictor import OnnxPredictor
from ssd.inference.torch_predictor import TorchPredictor
from ssd.weights import checkpoint

_RENDERED = "rendered shapes"


def export(config: DictConfig) -> None:
    """Writes the file if its detections agree with PyTorch's, and a report `<output>.json` beside it."""
    output = Path(config.output)
    if output.suffix != ".onnx":
        raise ConfigError(f"output={output}: must end in .onnx")
    try:
        import onnxruntime

        from ssd.export.onnx_graph import to_onnx
    except ImportError as error:
        raise ConfigError(f"ssd export needs {missing_package(error)}: pip install 'ssd-detector[export]'") from None
    runtime.quiet_libraries()
    model = checkpoint.load(config.checkpoint)
    needs_data = config.quantize is not None or build.has_dataset(config)
    data = read_evaluation_data(config, model.class_names) if needs_data else None
    predictor = TorchPredictor(model, instantiate(config.postprocess), device="cpu")
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    report: dict[str, Any] = {"checkpoint": config.checkpoint, "versions": versions}

    def write(temporary: Path) -> None:
        graph = to_onnx(model, predictor.postprocess)
        temporary.write_bytes(onnx_file.seal(graph))
        report["parity"] = _check_parity(predictor, temporary, config, data[0] if data else None, versions)
        if config.quantize and data is not None:
            report["int8"] = _quantize(graph, temporary, *data, config)

    atomic_files.write_atomically(output, write)
    report_file = output.with_name(f"{output.name}.json")
    text = json.dumps(report, indent=2) + "\n"
    atomic_files.write_atomically(report_file, text)
    console.log(f"{output}: {output.stat().st_size / 1e6:.1f} MB; report: {report_file}")


def _check_parity(
    predictor: TorchPredictor, file: Path, config: DictConfig, index: DetectionIndex | None, versions: dict[str, str]
) -> dict[str, Any]:
    """Compares the file with PyTorch on the images of `_comparison_images`; returns that part of the report.

    Raises:
        MachineError: they disagree.
    """
    images, source = _comparison_images(config, index)
    result = parity.compare(predictor, OnnxPredictor(file), images)
    if not result.agrees:
        raise MachineError(
            f"output={config.output}: not written: onnxruntime {versions['onnxruntime']} and torch {versions['torch']} "
            f"disagree on {result.mismatch_rate:.0%} of {result.detections} detections; try other versions, or other "
            "images=FOLDER"
        )
    console.log(
        f"agrees with PyTorch on {result.detections} detections in {result.images} images of {source} "
        f"(largest difference {result.largest_difference:.1e}, mismatch rate {result.mismatch_rate:.2%})"
    )
    if source == _RENDERED:
        console.log("to compare on your own images: images=FOLDER")
    details: dict[str, Any] = {"graph": "float32", "source": source, **asdict(result), "agrees": result.agrees}
    return details


def _comparison_images(config: DictConfig, index: DetectionIndex | None) -> tuple[list[ImageArray], str]:
    """(images, their source): those of `images=`, else of the dataset, else rendered ones."""
    if config.images is not None:
        return read_images(config.images), config.images
    if index is not None:
        return list(sample_images(index, MAX_IMAGES)), config.dataset.get("root", _RENDERED)
    return rendered_images(), _RENDERED


def _quantize(
    graph: Any, file: Path, calibration: DetectionIndex, evaluation: DetectionIndex, config: DictConfig
) -> dict[str, Any]:
    """Replaces the float32 graph in `file` by an int8 one; returns the mAP of both for the report.

    Raises:
        DataError: mAP drops by more than `max_map_drop`.
    """
    from ssd.export.quantize import quantize_int8

    before = OnnxPredictor(file)
    quantize_int8(graph, file, images=sample_images(calibration, config.calibration_images))
    predictors = {"float32": before, "int8": OnnxPredictor(file)}
    scores = {
        name: evaluator.mean_ap(each, evaluation, class_names=each.class_names) for name, each in predictors.items()
    }
    shown = (f"{name} {'undefined' if value is None else round(value, 3)}" for name, value in scores.items())
    console.log(f"mAP on {config.split}: {', '.join(shown)}")
    drop = (scores["float32"] or 0.0) - (scores["int8"] or 0.0)
    if drop > config.max_map_drop:
        raise DataError(
            f"output={config.output}: not written: int8 costs {drop:.3f} mAP on {config.split}, more than "
            f"max_map_drop={config.max_map_drop}; increase calibration_images, or export float32"
        )
    return {"split": config.split, "map": scores}
