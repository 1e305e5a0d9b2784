"""Runs an exported `.onnx` file in ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ssd.common.errors import CheckpointError, ConfigError
from ssd.common.images import ImageArray, warp
from ssd.common.structures import Detections
from ssd.common.text import one_line
from ssd.inference import onnx_file
from ssd.model.postprocess import PostProcess

Runtime = Literal["onnxruntime", "openvino"]
_TOLERANCE = 1e-3  # of OpenVINO in bfloat16
_MAX_LINE = 400
_Session = Callable[[np.ndarray], Sequence[np.ndarray]]


class OnnxPredictor:
    """Runs an exported file on images of any size, on the CPU; `class_names` are in the order of the labels.

    The graph contains the post-processing that it was exported with: its settings are in the dict `postprocess`, and
    the arguments here can only drop more detections.

    Args:
        path: a file that `ssd export` wrote.
        runtime: `openvino` computes in bfloat16 if the processor supports it.
        score_threshold, max_detections: applied to the graph's detections.

    Raises:
        CheckpointError: see `ssd.inference.onnx_file.read`; or the runtime rejects the file.
        ConfigError: the runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        runtime: Runtime = "onnxruntime",
        score_threshold: float = 0.0,
        max_detections: int | None = None,
    ) -> None:
        file = onnx_file.read(path)
        self.class_names = file.class_names
        self.thresholds = file.thresholds
        self.postprocess = file.postprocess
        self._image_size = file.image_size
        self._score_threshold = score_threshold
        self._max_detections = max_detections
        self._path = path
        self._runtime = runtime
        with self._convert_errors():
            self._run = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}[runtime](file.data)

    def __call__(self, images: Sequence[ImageArray]) -> list[Detections]:
        """Detections of each image (uint8 RGB HWC, upright); boxes are fractions of the image."""
        if not images:
            return []
        batch = np.stack([warp(image, size=self._image_size) for image in images])
        with self._convert_errors():
            outputs = [np.array(output) for output in self._run(batch)]
        if (problem := _find_problem(outputs, batch=len(batch), classes=len(self.class_names))) is not None:
            raise CheckpointError(f"{self._path}: returned {problem}; export it again")
        boxes, scores, labels, counts = map(torch.from_numpy, outputs)
        results = [
            Detections(boxes[row, :count], scores[row, :count], labels[row, :count])
            for row, count in enumerate(counts.tolist())
        ]
        return [result.above(self._score_threshold).first(self._max_detections) for result in results]

    def narrow(self, requested: PostProcess) -> PostProcess:
        """The settings of the graph where it has them, and the smaller limit of detections."""
        limit = min(requested.max_detections, self.postprocess.get("max_detections", requested.max_detections))
        return PostProcess(
            score_threshold=requested.score_threshold,
            nms_threshold=self.postprocess.get("nms_threshold", requested.nms_threshold),
            topk_candidates=requested.topk_candidates,
            max_detections=int(limit),
        )

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError:
            extra = "export" if self._runtime == "onnxruntime" else self._runtime
            raise ConfigError(f"{self._path}: needs {self._runtime}: pip install 'ssd-detector[{extra}]'") from None
        except Exception as error:  # the runtimes raise many types without a common base
            reason = one_line(" ".join(str(error).split()))[:_MAX_LINE]
            raise CheckpointError(f"{self._path}: {self._runtime} rejects it: {reason}") from error


def _find_problem(outputs: Sequence[np.ndarray], *, batch: int, classes: int) -> str | None:
    """What is wrong with the outputs of a graph; None if they are detections."""
    kinds = [(output.ndim, output.dtype.kind, len(output) if output.ndim else 0) for output in outputs]
    if kinds != [(3, "f", batch), (2, "f", batch), (2, "i", batch), (1, "i", batch)]:
        return f"outputs of shapes {[output.shape for output in outputs]}, not detections of {batch} images"
    boxes, scores, labels, counts = outputs
    limit = boxes.shape[1]
    if boxes.shape[2] != 4 or not scores.shape[1] == labels.shape[1] == limit:
        return f"outputs of shapes {[output.shape for output in outputs]}, which do not fit each other"
    if not np.all((counts >= 0) & (counts <= limit)):
        return f"counts from {counts.min()} to {counts.max()} for {limit} rows of detections"
    used = np.arange(limit) < counts[:, None]
    boxes, labels, adjacent = boxes[used], labels[used], used[:, 1:]
    if not (np.isfinite(boxes).all() and np.isfinite(scores[used]).all()):
        return "boxes or scores that are NaN or infinite"
    if not np.all((boxes >= -_TOLERANCE) & (boxes <= 1 + _TOLERANCE)) or not np.all(boxes[:, :2] <= boxes[:, 2:]):
        return "boxes that are not (x1, y1, x2, y2) as fractions of the image"
    if not np.all((scores[used] >= 0) & (scores[used] <= 1 + _TOLERANCE)):
        return "scores outside 0..1"
    if np.any(np.diff(scores, axis=1)[adjacent] > _TOLERANCE):
        return "scores that do not descend"
    if not np.all((labels >= 0) & (labels < classes)):
        return f"a label that has no class name (labels {labels.min()} to {labels.max()}, {classes} classes)"
    return None


def _open_onnxruntime(data: bytes) -> _Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised as well
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(list(onnx_file.OUTPUTS), {onnx_file.INPUT: batch})


def _open_openvino(data: bytes) -> _Session:
    import openvino

    core, threads = openvino.Core(), torch.get_num_threads()
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = core.compile_model(core.read_model(data), "CPU", settings)
    return lambda batch: list(compiled(batch).values())
