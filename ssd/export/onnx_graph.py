"""A network and its post-processing as one ONNX graph: raw pixels in, detections out."""

from __future__ import annotations

from typing import Any, cast

import onnx
import onnxscript
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from ssd.common.errors import ConfigError
from ssd.common.image_size import height_width
from ssd.common.structures import PADDING_LABEL
from ssd.inference import onnx_file
from ssd.model.postprocess import PostProcess
from ssd.model.ssd import SSD

op: Any = onnxscript.opset18
_EXAMPLE_BATCH = 2  # the exporter would treat a batch of 1 as a constant


def to_onnx(model: SSD, postprocess: PostProcess) -> onnx.ModelProto:
    """The graph of both, for batches of any size, with the metadata of `ssd.inference.onnx_file`.

    Raises:
        ConfigError: the model is larger than 2 GB.
    """
    network = _Detector(model, postprocess).eval()
    images = torch.zeros(_EXAMPLE_BATCH, *height_width(model.image_size), 3, dtype=torch.uint8)
    shapes = ({0: torch.export.Dim("batch")},)
    with torch.no_grad():  # in two steps: torch.onnx.export by itself would fall back to a fixed batch
        program = torch.export.export(network, (images,), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program,
            dynamic_shapes=shapes,
            verbose=False,
            opset_version=op.version,
            input_names=[onnx_file.INPUT],
            output_names=onnx_file.OUTPUTS,
            custom_translation_table={torch.ops.ssd.nms_mask.default: _nms_mask},
        )
    proto: onnx.ModelProto = cast(torch.onnx.ONNXProgram, exported).model_proto
    for message in onnx_file.walk_messages(proto):  # the exporter's stack traces contain paths of this machine
        for field in {"metadata_props", "doc_string"}.intersection(message.DESCRIPTOR.fields_by_name.keys()):
            message.ClearField(field)
    if proto.ByteSize() > onnx_file.MAX_BYTES:
        raise ConfigError("the network is larger than 2 GB, the limit of one .onnx file; export a smaller one")
    names = ("score_threshold", "nms_threshold", "topk_candidates", "max_detections")
    settings = {name: getattr(postprocess, name) for name in names}
    onnx_file.write_metadata(proto, recipe=model.recipe(), postprocess=settings)
    return proto


class _Detector(nn.Module):
    """The computation of the graph. Its NMS exists in ONNX only, so it can be exported but not run."""

    def __init__(self, model: SSD, postprocess: PostProcess) -> None:
        super().__init__()
        self.model = model
        self.postprocess = postprocess

    def forward(
        self, images: UInt8[Tensor, "B H W 3"]
    ) -> tuple[Float[Tensor, "B D 4"], Float[Tensor, "B D"], Int64[Tensor, "B D"], Int64[Tensor, "B"]]:
        post = self.postprocess
        boxes, scores, labels = post.select_topk(self.model(images.permute(0, 3, 1, 2)), self.model.priors)
        keep = torch.ops.ssd.nms_mask(
            boxes, scores, labels, len(self.model.class_names), post.nms_threshold, post.score_threshold
        )
        limit = min(post.max_detections, scores.shape[1])
        scores, order = scores.where(keep, 0.0).topk(limit, dim=1)
        valid = scores > 0
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)).where(valid[..., None], 0.0)
        labels = labels.gather(1, order).where(valid, PADDING_LABEL)
        return boxes, scores, labels, valid.sum(dim=1)


torch.library.define(
    "ssd::nms_mask",
    "(Tensor boxes, Tensor scores, Tensor labels, int classes, float nms_threshold, float score_threshold) -> Tensor",
)

torch.library.register_fake(
    "ssd::nms_mask", lambda boxes, scores, labels, *settings: torch.empty_like(scores, dtype=torch.bool)
)


def _nms_mask(boxes: Any, scores: Any, labels: Any, classes: int, nms_threshold: float, score_threshold: float) -> Any:
    """Mask [B, N] of the candidates above the score threshold that the NMS of their class keeps."""
    class_ids = op.Constant(value_ints=list(range(classes)))
    is_class = op.Equal(op.Unsqueeze(labels, [1]), op.Unsqueeze(class_ids, [0, 2]))
    per_class = op.Where(is_class, op.Unsqueeze(scores, [1]), op.Constant(value_float=-1.0))  # [B, C, N]
    selected = op.NonMaxSuppression(
        boxes,
        per_class,
        op.Squeeze(op.Shape(scores, start=1)),
        op.Constant(value_floats=[nms_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    positions = op.Gather(selected, [0, 2], axis=1)  # rows are (image, class, candidate)
    nothing = op.ConstantOfShape(op.Shape(scores), value=onnxscript.ir.tensor([False]))
    true = op.Expand(op.Constant(value=onnxscript.ir.tensor([True])), op.Shape(positions, start=0, end=1))
    return op.ScatterND(nothing, positions, true)
