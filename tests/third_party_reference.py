"""Reference implementations of the networks of other SSD programs: plain functions on a dict of weights, without ssd.

`random_weights` creates weights in the key layout of a program, `forward` runs them, `prior_boxes` builds its priors.
A sheet (`AMDEGROOT` ...) describes how a program names and connects its layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]

# number of a layer -> channels in, channels out, kernel
VGG = {
    **{0: (3, 64, 3), 2: (64, 64, 3), 5: (64, 128, 3), 7: (128, 128, 3), 10: (128, 256, 3), 12: (256, 256, 3)},
    **{14: (256, 256, 3), 17: (256, 512, 3), **dict.fromkeys((19, 21, 24, 26, 28), (512, 512, 3))},
    **{31: (512, 1024, 3), 33: (1024, 1024, 1)},
}
MOBILENET = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), *[(512, 512)] * 5, (512, 1024)]
MOBILENET += [(1024, 1024)]
HALVED = (2, 4, 6, 12)  # these blocks have stride 2
CELL = {"300": (4, 6, 6, 6, 4, 4), "512": (4, 6, 6, 6, 6, 4, 4), "mobilenet": (6,) * 6}
GRIDS = {"300": (38, 19, 10, 5, 3, 1), "512": (64, 32, 16, 8, 4, 2, 1), "mobilenet": (19, 10, 5, 3, 2, 1)}
STEPS = {
    "300": (8, 16, 32, 64, 100, 300),
    "512": (8, 16, 32, 64, 128, 256, 512),
    "mobilenet": (16, 32, 64, 100, 150, 300),
}
SIZES = {  # minimum sides in pixels, and the maximum
    "300": (30, 60, 111, 162, 213, 264, 315),
    "300 coco": (21, 45, 99, 153, 207, 261, 315),
    "512": (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.65),
    "mobilenet": (60, 105, 150, 195, 240, 285, 330),
}
# channels in, middle, out; kernel, stride and padding of the second convolution
EXTRAS = {
    "300": [(1024, 256, 512, 3, 2, 1), (512, 128, 256, 3, 2, 1), *[(256, 128, 256, 3, 1, 0)] * 2],
    "512": [(1024, 256, 512, 3, 2, 1), (512, 128, 256, 3, 2, 1), *[(256, 128, 256, 3, 2, 1)] * 2],
    "mobilenet": [(1024, 256, 512, 3, 2, 1), (512, 128, 256, 3, 2, 1), *[(256, 128, 256, 3, 2, 1)] * 2],
}
EXTRAS["512"] += [(256, 128, 256, 4, 1, 1)]


@dataclass(frozen=True)
class Sheet:
    """Names of the parts, and mean and std of the RGB pixels."""

    kind: str
    base: str
    extras: str
    classes: str
    boxes: str
    norm: str = ""
    flat: bool = False  # extras are one list of convolutions, not pairs with ReLU between
    mean: tuple[float, float, float] = (123, 117, 104)
    std: float = 1

    def extra(self, level: int, part: int) -> str:
        return f"{self.extras}.{2 * level + part}" if self.flat else f"{self.extras}.{level}.{2 * part}"


AMDEGROOT = Sheet("300", "vgg", "extras", "conf", "loc", "L2Norm", flat=True)
QFGAOHAO_VGG = Sheet(
    "300", "base_net", "extras", "classification_headers", "regression_headers", "source_layer_add_ons.0"
)
QFGAOHAO_MB1 = Sheet(
    "mobilenet", "base_net", "extras", "classification_headers", "regression_headers", mean=(127, 127, 127), std=128
)
_HEADERS = ("box_head.predictor.cls_headers", "box_head.predictor.reg_headers")
LUFFICC = Sheet("300", "backbone.vgg", "backbone.extras", *_HEADERS, "backbone.l2_norm", flat=True)
LUFFICC_512 = Sheet("512", "backbone.vgg", "backbone.extras", *_HEADERS, "backbone.l2_norm", flat=True)


def shapes(sheet: Sheet, *, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(key, shape) of every tensor, for `outputs` classes including background."""
    if sheet.kind == "mobilenet":
        yield from _mobilenet_shapes(sheet.base)
    else:
        for number, (before, after, kernel) in VGG.items():
            yield from _convolution(f"{sheet.base}.{number}", before, after, kernel)
        if sheet is QFGAOHAO_VGG:
            yield from _batch_norm(sheet.norm, 512)
        else:
            yield f"{sheet.norm}.weight", (512,)
    channels = [512, 1024]
    for level, (before, middle, after, kernel, _, _) in enumerate(EXTRAS[sheet.kind]):
        yield from _convolution(sheet.extra(level, 0), before, middle, 1)
        yield from _convolution(sheet.extra(level, 1), middle, after, kernel)
        channels.append(after)
    for level, (before, anchors) in enumerate(zip(channels, CELL[sheet.kind], strict=True)):
        yield from _convolution(f"{sheet.classes}.{level}", before, anchors * outputs, 3)
        yield from _convolution(f"{sheet.boxes}.{level}", before, anchors * 4, 3)


def _convolution(name: str, before: int, after: int, kernel: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (after, before, kernel, kernel)
    yield f"{name}.bias", (after,)


def _batch_norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def _mobilenet_shapes(base: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{base}.0.0.weight", (32, 3, 3, 3)
    yield from _batch_norm(f"{base}.0.1", 32)
    for number, (before, after) in enumerate(MOBILENET, start=1):
        yield f"{base}.{number}.0.weight", (before, 1, 3, 3)
        yield from _batch_norm(f"{base}.{number}.1", before)
        yield f"{base}.{number}.3.weight", (after, before, 1, 1)
        yield from _batch_norm(f"{base}.{number}.4", after)


def random_weights(sheet: Sheet, *, outputs: int) -> Weights:
    """Random weights, all different, that keep activations and logits at a realistic scale."""
    return {key: _random(key, shape, sheet) for key, shape in shapes(sheet, outputs=outputs)}


def _random(key: str, shape: tuple[int, ...], sheet: Sheet) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if len(shape) == 4:
        gain = 0.2 if key.startswith((sheet.classes, sheet.boxes)) else 2**0.5
        if shape[1] == 3:
            gain *= sheet.std / 128  # pixels are large
        return torch.randn(shape) * gain / math.sqrt(shape[1] * shape[2] * shape[3])
    if key.startswith(sheet.norm) and sheet.norm and sheet is not QFGAOHAO_VGG:
        return torch.rand(shape) * 10 + 15
    return torch.rand(shape) + 0.5 if key.endswith(("running_var", "weight")) else torch.randn(shape) / 10


def forward(sheet: Sheet, weights: Weights, images: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [B, P, outputs], offsets [B, P, 4]) for RGB pixels 0..255."""
    x = (images.float() - torch.tensor(sheet.mean).view(3, 1, 1)) / sheet.std
    maps = list(_mobilenet(sheet, weights, x) if sheet.kind == "mobilenet" else _vgg(sheet, weights, x))
    for level, (*_, stride, padding) in enumerate(EXTRAS[sheet.kind]):
        x = F.relu(_conv(weights, sheet.extra(level, 0), maps[-1]))
        maps.append(F.relu(_conv(weights, sheet.extra(level, 1), x, stride=stride, padding=padding)))
    levels = list(enumerate(zip(maps, CELL[sheet.kind], strict=True)))
    logits, offsets = (
        torch.cat([_cells(weights, f"{heads}.{level}", x, anchors) for level, (x, anchors) in levels], dim=1)
        for heads in (sheet.classes, sheet.boxes)
    )
    return logits, offsets


def _conv(weights: Weights, name: str, x: Tensor, **how: int) -> Tensor:
    return F.conv2d(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), **how)


def _cells(weights: Weights, name: str, x: Tensor, anchors: int) -> Tensor:
    """One row per anchor: cells row by row, with the anchors of a cell adjacent."""
    out = _conv(weights, name, x, padding=1)
    batch, channels, rows, columns = out.shape
    table = out.view(batch, anchors, channels // anchors, rows, columns)
    return table.permute(0, 3, 4, 1, 2).reshape(batch, rows * columns * anchors, channels // anchors)


def _vgg(sheet: Sheet, weights: Weights, x: Tensor) -> Iterator[Tensor]:
    """conv4_3 after its norm, and fc7. A convolution and its ReLU count as two layers, a pooling as one."""
    pools = {4: {}, 9: {}, 16: {"ceil_mode": True}, 23: {}, 30: {"kernel_size": 3, "stride": 1, "padding": 1}}
    for number in range(34):
        if number == 23:
            yield _norm(sheet, weights, x)
        if number in pools:
            x = F.max_pool2d(x, **({"kernel_size": 2} | pools[number]))
        elif number in VGG:
            how = {31: {"padding": 6, "dilation": 6}, 33: {}}.get(number, {"padding": 1})
            x = F.relu(_conv(weights, f"{sheet.base}.{number}", x, **how))
    yield x


def _norm(sheet: Sheet, weights: Weights, x: Tensor) -> Tensor:
    if sheet is QFGAOHAO_VGG:
        return _batch_normed(weights, sheet.norm, x)
    length = x.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
    return weights[f"{sheet.norm}.weight"].view(1, -1, 1, 1) * x / length


def _mobilenet(sheet: Sheet, weights: Weights, x: Tensor) -> Iterator[Tensor]:
    """The outputs of the first 12 layers and of all 14."""
    x = F.conv2d(x, weights[f"{sheet.base}.0.0.weight"], stride=2, padding=1)
    x = F.relu(_batch_normed(weights, f"{sheet.base}.0.1", x))
    for number, (channels, _) in enumerate(MOBILENET, start=1):
        if number == 12:
            yield x
        block = f"{sheet.base}.{number}"
        x = _conv(weights, f"{block}.0", x, stride=2 if number in HALVED else 1, padding=1, groups=channels)
        x = F.relu(_batch_normed(weights, f"{block}.1", x))
        x = F.relu(_batch_normed(weights, f"{block}.4", _conv(weights, f"{block}.3", x)))
    yield x


def _batch_normed(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance, factor, shift = (
        weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * factor + shift


def prior_boxes(kind: str, *, sizes: str | None = None) -> list[list[float]]:
    """(cx, cy, w, h), every one of the four clamped to [0, 1]."""
    side = 512 if kind == "512" else 300
    boxes = []
    px = SIZES[sizes or kind]
    for level, (grid, step, anchors) in enumerate(zip(GRIDS[kind], STEPS[kind], CELL[kind], strict=True)):
        small, middle = px[level] / side, math.sqrt(px[level] * px[level + 1]) / side
        for row, column in itertools.product(range(grid), repeat=2):
            centre = [(column + 0.5) * step / side, (row + 0.5) * step / side]
            cell = [[small, small], [middle, middle]]
            for ratio in (2, 3)[: (anchors - 2) // 2]:
                cell += [[small * ratio**0.5, small / ratio**0.5], [small / ratio**0.5, small * ratio**0.5]]
            boxes += [[min(1.0, max(0.0, value)) for value in centre + size] for size in cell]
    return boxes


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """Corners; variances 0.1 and 0.2."""
    centre = priors[:, :2] + offsets[..., :2] * 0.1 * priors[:, 2:]
    half = priors[:, 2:] * torch.exp(offsets[..., 2:] * 0.2) / 2
    return torch.cat((centre - half, centre + half), dim=-1)
