"""How other SSD programs name their weights, and the settings that their code fixes.

Sources: amdegroot/ssd.pytorch (also the book PyTorch Advanced), qfgaohao/pytorch-ssd and its jetson forks, lufficc/SSD,
torchvision's ssd300_vgg16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ssd.model.backbones import VGG16, MobileNetV1, mobilenet_v1, vgg16
from ssd.model.priors import Clip

COCO_COLUMNS = (81, 201)  # outputs of the COCO configurations; amdegroot's has 201
_VGG_SQUARES_PX = {  # (levels, trained on COCO): sides of the squares
    (6, False): (30, 60, 111, 162, 213, 264, 315),
    (6, True): (21, 45, 99, 153, 207, 261, 315),
    (7, False): (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.65),
    (7, True): (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}
_JETSON_SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)  # of the forks, for every side except 300

_VOC = """aeroplane bicycle bird boat bottle bus car cat chair cow
    diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"""
VOC_NAMES = tuple(_VOC.split())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one program stores its network."""

    name: str  # of the program, and of its network if it has several
    backbone: str  # name of our backbone
    # (levels, trained on COCO, input side) -> the backbone, priors and image_size of a recipe
    network: Callable[[int, bool, int | None], dict[str, Any]]
    modules: Mapping[str, str]  # their module (or tensor) name -> ours
    first_anchors: int = 4  # priors per cell on the first level
    any_image_size: bool = False  # its networks exist for several input sides, which the files do not record
    category_ids: bool = False  # its classes are COCO's category ids, gaps included, and its priors those for COCO
    has_labels: bool = False  # its training writes labels.txt beside the weights

    def to_ours(self, key: str) -> str | None:
        """Our name of one of their tensors; None if it has none."""
        return _rename(key, self.modules)

    def to_theirs(self, key: str) -> str:
        """Their name of one of our tensors."""
        return _rename(key, {ours: theirs for theirs, ours in self.modules.items()}) or key


def _rename(key: str, table: Mapping[str, str]) -> str | None:
    module, _, name = key.rpartition(".")
    return table.get(key) or (f"{table[module]}.{name}" if module in table else None)


def _vgg_base(theirs: str, *, last: int = 33) -> dict[str, str]:
    return {f"{theirs}.{number}": f"backbone.base.{number}" for number in range(last + 1)}


def _flat_extras(theirs: str) -> dict[str, str]:
    """A flat list of convolutions; one of our levels holds two of them, at 0 and 2."""
    return {f"{theirs}.{number}": f"backbone.extras.{number // 2}.{number % 2 * 2}" for number in range(10)}


def _extras(theirs: str, *, first: int = 0) -> dict[str, str]:
    return {
        f"{theirs}.{level + first}.{part}": f"backbone.extras.{level}.{part}" for level in range(4) for part in (0, 2)
    }


def _heads(classification: str, localization: str) -> dict[str, str]:
    return {
        f"{theirs}.{level}": f"{ours}.{level}"
        for theirs, ours in ((classification, "classification_heads"), (localization, "localization_heads"))
        for level in range(7)
    }


def _vgg16(levels: int, coco: bool, image_size: int | None, *, clip: Clip = "all", **changes: Any) -> dict[str, Any]:
    side = {6: 300, 7: 512}[levels]
    scales = [px / side for px in _VGG_SQUARES_PX[levels, coco]]
    arguments = {"extras": str(side), "conv4_3_norm": "l2", "mean": list(vgg16.MEAN), "std": list(vgg16.STD)}
    return {
        "backbone": {"name": VGG16.name, "arguments": arguments | changes},
        "priors": replace(vgg16.PRIORS[str(side)], scales=scales, clip=clip).as_dict(),
        "image_size": side,
    }


def _mobilenet_v1(levels: int, coco: bool, image_size: int | None) -> dict[str, Any]:
    priors = mobilenet_v1.PRIORS
    if image_size not in (None, 300):
        priors = replace(priors, scales=_JETSON_SCALES, steps_px={})
    arguments = {"width_multiplier": 1.0, "mean": list(mobilenet_v1.MEAN), "std": list(mobilenet_v1.STD)}
    return {
        "backbone": {"name": MobileNetV1.name, "arguments": arguments},
        "priors": replace(priors, clip="all").as_dict(),
        "image_size": image_size or 300,
    }


_QFGAOHAO_EXTRAS_AND_HEADS = {**_extras("extras"), **_heads("classification_headers", "regression_headers")}

LAYOUTS = (
    Layout(
        name="amdegroot/ssd.pytorch, PyTorch Advanced",
        backbone=VGG16.name,
        network=_vgg16,
        modules={
            **_vgg_base("vgg"),
            "L2Norm": "backbone.conv4_3_norm",
            **_flat_extras("extras"),
            **_heads("conf", "loc"),
        },
    ),
    Layout(
        name="qfgaohao/pytorch-ssd vgg16-ssd",
        backbone=VGG16.name,
        network=partial(_vgg16, conv4_3_norm="batch"),
        has_labels=True,
        modules={
            **_vgg_base("base_net"),
            "source_layer_add_ons.0": "backbone.conv4_3_norm",
            **_QFGAOHAO_EXTRAS_AND_HEADS,
        },
    ),
    Layout(
        name="qfgaohao/pytorch-ssd mb1-ssd",
        backbone=MobileNetV1.name,
        network=_mobilenet_v1,
        first_anchors=6,
        any_image_size=True,
        has_labels=True,
        modules={
            **{f"base_net.{n}.{part}": f"backbone.base.{n}.{part}" for n in range(14) for part in (0, 1, 3, 4)},
            **_QFGAOHAO_EXTRAS_AND_HEADS,
        },
    ),
    Layout(
        name="lufficc/SSD",
        backbone=VGG16.name,
        network=_vgg16,
        modules={
            **_vgg_base("backbone.vgg"),
            "backbone.l2_norm": "backbone.conv4_3_norm",
            **_flat_extras("backbone.extras"),
            **_heads("box_head.predictor.cls_headers", "box_head.predictor.reg_headers"),
        },
    ),
    Layout(
        name="torchvision ssd300_vgg16",
        backbone=VGG16.name,
        network=partial(_vgg16, clip="sizes", mean=[0.48235 * 255, 0.45882 * 255, 0.40784 * 255]),
        category_ids=True,
        modules={
            **_vgg_base("backbone.features", last=21),
            "backbone.scale_weight": "backbone.conv4_3_norm.weight",
            **{f"backbone.extra.0.{number}": f"backbone.base.{number + 23}" for number in (1, 3, 5)},
            **{f"backbone.extra.0.7.{number}": f"backbone.base.{number + 30}" for number in (1, 3)},
            **_extras("backbone.extra", first=1),
            **_heads("head.classification_head.module_list", "head.regression_head.module_list"),
        },
    ),
)
