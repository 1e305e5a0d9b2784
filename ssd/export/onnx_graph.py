"""A network and its post-processing as one ONNX graph: raw pixels in, detections out."""

from __future__ import annotations

from typing import Any, cast

import onnx
import onnxscript
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.inference import onnx_file
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD
from ssd.model.structures import PADDING_LABEL

op: Any = onnxscript.opset18
_EXAMPLE_BATCH = 2  # 1 would be taken for a constant


def to_onnx(model: SSD, postprocess: PostProcess) -> onnx.ModelProto:
    """The graph of both, for batches of any size, with the metadata of `ssd.inference.onnx_file`.

    Raises:
        ConfigError: it would be over 2 GB.
    """
    network = _Detector(model, postprocess).eval()
    images = torch.zeros(_EXAMPLE_BATCH, model.image_size, model.image_size, 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():  # in two steps, because the second by itself would fall back to a fixed batch
        program = torch.export.export(network, (images,), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program,
            dynamic_shapes=shapes,
            verbose=False,
            opset_version=op.version,
            input_names=[onnx_file.INPUT],
            output_names=onnx_file.OUTPUTS,
            custom_translation_table={torch.ops.ssd.survivors.default: _survivors},
        )
    proto: onnx.ModelProto = cast(torch.onnx.ONNXProgram, exported).model_proto
    _strip(proto)
    if proto.ByteSize() > onnx_file.MAX_BYTES:
        raise ConfigError("the network is over 2 GB, too large for one .onnx file; export a smaller one")
    names = ("score_threshold", "nms_threshold", "topk_candidates", "max_detections")
    onnx_file.describe(proto, recipe=model.recipe(), postprocess={name: getattr(postprocess, name) for name in names})
    return proto


class _Detector(nn.Module):
    """What the graph computes. Its NMS exists in ONNX only, so it can be exported but not run."""

    def __init__(self, model: SSD, postprocess: PostProcess) -> None:
        super().__init__()
        self.model = model
        self.postprocess = postprocess

    def forward(
        self, images: UInt8[Tensor, "B S S 3"]
    ) -> tuple[Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int64[Tensor, "B D"], Int64[Tensor, "B"]]:
        rules = self.postprocess
        boxes, scores, labels = rules.select_topk(self.model(images.permute(0, 3, 1, 2)), self.model.priors)
        survives = torch.ops.ssd.survivors(
            boxes, scores, labels, len(self.model.class_names), rules.nms_threshold, rules.score_threshold
        )
        kept = min(rules.max_detections, scores.shape[1])
        scores, order = scores.where(survives, 0.0).topk(kept, dim=1)
        found = scores > 0
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).where(found[..., None], 0.0)
        labels = labels.gather(1, order).where(found, PADDING_LABEL)
        return boxes, scores, labels, found.sum(dim=1)


torch.library.define(
    "ssd::survivors",
    "(Tensor boxes, Tensor scores, Tensor labels, int classes, float iou_threshold, float score_threshold) -> Tensor",
)

torch.library.register_fake(
    "ssd::survivors", lambda boxes, scores, labels, *settings: torch.empty_like(scores, dtype=torch.bool)
)


def _survivors(boxes: Any, scores: Any, labels: Any, classes: int, iou_threshold: float, score_threshold: float) -> Any:
    """Which of the candidates [B, N] are over the threshold and survive the NMS of their class."""
    names = op.Constant(value_ints=list(range(classes)))
    is_class = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(names, [0, 2]))
    per_class = op.Where(is_class, op.Unsqueeze(scores, [1]), op.Constant(value_float=-1.0))  # [B, C, N]
    chosen = op.NonMaxSuppression(
        boxes,
        per_class,
        op.Squeeze(op.Shape(scores, start=1)),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    cells = op.Gather(chosen, [0, 2], axis=1)  # rows are (image, class, candidate)
    nowhere = op.ConstantOfShape(op.Shape(scores), value=onnxscript.ir.tensor([False]))
    true = op.Expand(op.Constant(value=onnxscript.ir.tensor([True])), op.Shape(cells, start=0, end=1))
    return op.ScatterND(nowhere, cells, true)


def _strip(proto: onnx.ModelProto) -> None:
    """Takes out the exporter's notes: stack traces name the folders of the machine."""
    for message in onnx_file.messages(proto):
        for field in ("metadata_props", "doc_string"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
