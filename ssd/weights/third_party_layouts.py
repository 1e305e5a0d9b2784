"""The layouts of other SSD programs' weights: what they call our modules, and the settings that their code fixes.

Sources: amdegroot/ssd.pytorch (also the book PyTorch Advanced), qfgaohao/pytorch-ssd and its jetson forks, lufficc/SSD,
torchvision's ssd300_vgg16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ssd.model.priors import Clip
from ssd.model.ssd import RECIPE_VERSION

_SQUARES_PX = {  # (levels, trained on COCO): sides of the squares
    (6, False): (30, 60, 111, 162, 213, 264, 315),
    (6, True): (21, 45, 99, 153, 207, 261, 315),
    (7, False): (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.65),
    (7, True): (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}
_STEPS_PX = {6: (8, 16, 32, 64, 100, 300), 7: (8, 16, 32, 64, 128, 256, 512)}
_RATIOS = {6: [[2], [2, 3], [2, 3], [2, 3], [2], [2]], 7: [[2], [2, 3], [2, 3], [2, 3], [2, 3], [2], [2]]}
_COCO_COLUMNS = (81, 201)  # outputs of the COCO configurations; amdegroot's has 201
_MOBILENET_SQUARES_PX = (60, 105, 150, 195, 240, 285, 330)
_MOBILENET_STEPS_PX = (16, 32, 64, 100, 150, 300)
_JETSON_SCALES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)  # of the forks, for every side but 300

_VOC = """aeroplane bicycle bird boat bottle bus car cat chair cow
    diningtable dog horse motorbike person pottedplant sheep sofa train tvmonitor"""
VOC_NAMES = tuple(_VOC.split())


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one program stores its network.

    `modules` maps the names of its modules (or of single tensors) to ours. `squares` says which published sides of
    the priors it has. `has_labels`: its training writes labels.txt beside the weights.
    """

    name: str
    modules: Mapping[str, str]
    backbone: Literal["vgg16", "mobilenet_v1"]
    mean: tuple[float, ...] = (123.0, 117.0, 104.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    conv4_3_norm: str = "l2"
    clip: Clip = "all"
    squares: Literal["by outputs", "coco"] = "by outputs"
    has_labels: bool = False

    def ours(self, key: str) -> str | None:
        """Our name of their tensor."""
        return _translate(key, self.modules)

    def theirs(self, key: str) -> str:
        """Their name of our tensor."""
        return _translate(key, {ours: theirs for theirs, ours in self.modules.items()}) or key

    def recipe(
        self, *, levels: int, class_names: list[str], columns: int, image_size: int | None = None
    ) -> dict[str, Any]:
        """The recipe of their network with `levels` feature maps and `columns` outputs (background counts).

        `image_size` is for the forks that train MobileNetV1-SSD on other sides; nothing in the file tells.
        """
        pixels = {"mean": list(self.mean), "std": list(self.std)}
        if self.backbone == "mobilenet_v1":
            side = image_size or 300
            arguments: dict[str, Any] = {"width_multiplier": 1.0, **pixels}
            ratios: list[list[int]] = [[2, 3]] * 6
            published = side == 300
            scales = [px / 300 for px in _MOBILENET_SQUARES_PX] if published else list(_JETSON_SCALES)
            steps = {side: list(_MOBILENET_STEPS_PX)} if published else {}
        else:
            side = {6: 300, 7: 512}[levels]
            arguments = {"extras": str(side), "conv4_3_norm": self.conv4_3_norm, **pixels}
            ratios, steps = _RATIOS[levels], {side: list(_STEPS_PX[levels])}
            is_coco = self.squares == "coco" or columns in _COCO_COLUMNS
            scales = [px / side for px in _SQUARES_PX[levels, is_coco]]
        return {
            "version": RECIPE_VERSION,
            "backbone": {"name": self.backbone, "arguments": arguments},
            "priors": {"scales": scales, "aspect_ratios": ratios, "clip": self.clip, "steps_px": steps},
            "class_names": class_names,
            "image_size": side,
        }


def _translate(key: str, table: Mapping[str, str]) -> str | None:
    module, _, name = key.rpartition(".")
    return table.get(key) or (f"{table[module]}.{name}" if module in table else None)


def _vgg(theirs: str, *, last: int = 33) -> dict[str, str]:
    return {f"{theirs}.{number}": f"backbone.base.{number}" for number in range(last + 1)}


def _flat_extras(theirs: str) -> dict[str, str]:
    """A list of convolutions; in ours a level holds two, at 0 and 2."""
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


_QFGAOHAO_REST = {**_extras("extras"), **_heads("classification_headers", "regression_headers")}

LAYOUTS = (
    Layout(
        name="amdegroot/ssd.pytorch, PyTorch Advanced",
        backbone="vgg16",
        modules={
            **_vgg("vgg"),
            "L2Norm": "backbone.conv4_3_norm",
            **_flat_extras("extras"),
            **_heads("conf", "loc"),
        },
    ),
    Layout(
        name="qfgaohao/pytorch-ssd vgg16-ssd",
        backbone="vgg16",
        conv4_3_norm="batch",
        has_labels=True,
        modules={**_vgg("base_net"), "source_layer_add_ons.0": "backbone.conv4_3_norm", **_QFGAOHAO_REST},
    ),
    Layout(
        name="qfgaohao/pytorch-ssd mb1-ssd",
        backbone="mobilenet_v1",
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
        has_labels=True,
        modules={
            **{f"base_net.{n}.{part}": f"backbone.base.{n}.{part}" for n in range(14) for part in (0, 1, 3, 4)},
            **_QFGAOHAO_REST,
        },
    ),
    Layout(
        name="lufficc/SSD",
        backbone="vgg16",
        modules={
            **_vgg("backbone.vgg"),
            "backbone.l2_norm": "backbone.conv4_3_norm",
            **_flat_extras("backbone.extras"),
            **_heads("box_head.predictor.cls_headers", "box_head.predictor.reg_headers"),
        },
    ),
    Layout(
        name="torchvision ssd300_vgg16",
        backbone="vgg16",
        mean=(0.48235 * 255, 0.45882 * 255, 0.40784 * 255),
        clip="sizes",
        squares="coco",
        modules={
            **_vgg("backbone.features", last=21),
            "backbone.scale_weight": "backbone.conv4_3_norm.weight",
            **{f"backbone.extra.0.{number}": f"backbone.base.{number + 23}" for number in (1, 3, 5)},
            **{f"backbone.extra.0.7.{number}": f"backbone.base.{number + 30}" for number in (1, 3)},
            **_extras("backbone.extra", first=1),
            **_heads("head.classification_head.module_list", "head.regression_head.module_list"),
        },
    ),
)

_PREFIX = r"(?:features\.|vgg\.|base_net\.|model\.|(?:model\.)?(?:backbone\.)?base\.)?"
BASE_NETS = {  # keys of a base net alone, and of our own checkpoints
    "vgg16": re.compile(rf"{_PREFIX}(\d+\.(?:weight|bias))$"),  # vgg16_reducedfc.pth, torchvision
    "mobilenet_v1": re.compile(rf"{_PREFIX}(\d+\.\d+\.\w+)$"),  # the conv_bn and conv_dw of the common MobileNetV1
}
