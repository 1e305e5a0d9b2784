"""Writes a checkpoint as ONNX: python -m ssd.export checkpoint=FILE output=model.onnx; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ssd.command import run

if TYPE_CHECKING:
    from pathlib import Path

    from omegaconf import DictConfig

    from ssd.model import SSD
    from ssd.predictor import Predictor


def export(config: DictConfig) -> None:
    """Writes the file, once it has shown that it finds what PyTorch finds, and a report `<output>.json` beside it."""
    import json
    from pathlib import Path

    from hydra.utils import instantiate

    from ssd import checkpoint, results
    from ssd.errors import ConfigError
    from ssd.predictor import Predictor

    if config.quantize not in (None, "int8"):
        raise ConfigError(f"quantize={config.quantize}: must be null or int8")
    try:
        from ssd.onnx_export import to_onnx
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: pip install 'ssd-detector[export]'") from None
    model = checkpoint.load(config.checkpoint)
    predictor = Predictor(model, instantiate(config.postprocess), device="cpu")
    output = Path(config.output)
    report: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        graph = to_onnx(model, predictor.postprocess)
        temporary.write_bytes(graph.SerializeToString())
        report.update(check(predictor, temporary, config))
        if config.quantize == "int8":
            report.update(quantize(model, graph, temporary, config))

    checkpoint.write_atomically(output, write)
    text = json.dumps({"checkpoint": str(config.checkpoint), **report}, indent=2)
    beside = output.with_name(f"{output.name}.json")
    checkpoint.write_atomically(beside, lambda temporary: temporary.write_text(text + "\n"))
    results.say(f"{output}: {output.stat().st_size / 1e6:.1f} MB; the comparison is in {beside}")


def check(predictor: Predictor, file: Path, config: DictConfig) -> dict[str, Any]:
    """Compares the file with PyTorch.

    Raises:
        MachineError: they disagree.
    """
    import onnxruntime
    import torch

    from ssd import parity, results
    from ssd.errors import MachineError
    from ssd.onnx_predictor import OnnxPredictor

    pictures = parity.pictures_to_compare(config.pictures)
    found = parity.compare(predictor, OnnxPredictor(file), pictures)
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    if not found.agrees:
        raise MachineError(
            f"output={config.output}: not written: onnxruntime {versions['onnxruntime']} and torch {versions['torch']} "
            f"disagree on {found.without_like} of {found.detections} detections in {found.pictures} pictures; "
            "try other versions of them"
        )
    results.say(
        f"agrees with PyTorch on {found.detections} detections in {found.pictures} pictures "
        f"(largest difference {found.largest_difference:.1e}, {found.without_like} without their like)"
    )
    return {"versions": versions, "parity": found.as_dict()}


def quantize(model: SSD, graph: Any, file: Path, config: DictConfig) -> dict[str, Any]:
    """Puts the int8 graph in the place of the float32 one, and measures what that costs."""
    from ssd import assemble, metrics, results
    from ssd.onnx_predictor import OnnxPredictor
    from ssd.quantize import quantize_int8

    datamodule = assemble.build_datamodule_for(model, config)
    loader = assemble.evaluation_loader(datamodule, config.split)
    float32 = OnnxPredictor(file)
    quantize_int8(graph, file, index=datamodule.splits.train, pictures=config.calibration_pictures)
    predictors = {"float32": float32, "int8": OnnxPredictor(file)}
    scores = {name: metrics.score(each, loader, model.class_names).get("map") for name, each in predictors.items()}
    results.say(f"mAP on {config.split}: {scores['float32']} in float32, {scores['int8']} in int8")
    return {"split": config.split, "map": scores}


if __name__ == "__main__":
    run(export, config_name="export")
