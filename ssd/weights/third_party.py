"""Weights of other SSD programs: recognised by their keys, renamed, and given the recipe that their code implies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ssd.common.errors import CheckpointError, ConfigError
from ssd.model.ssd import build
from ssd.weights.third_party_layouts import BASE_NETS, LAYOUTS, VOC_NAMES, Layout

ChannelOrder = Literal["rgb", "bgr"]

_LABELS = "labels.txt"
_BASE = "backbone.base."
_HEADS = "classification_heads."
_NOT_STORED = re.compile(r"pixel_norm|num_batches_tracked$")  # in ours; follows from the layout, or starts at 0
_NOT_NEEDED = re.compile(r"(^|\.)(priors|anchors)$")  # in theirs
_MOST_CLASSES = 2000
_TIMM_PARTS = {"conv_stem": "0.0", "bn1": "0.1"}
_TIMM_BLOCK_PARTS = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}


class BaseNetOnly(CheckpointError):  # noqa: N818  what was found, not what went wrong
    """The file holds a base net without a detector."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A network of another program: recipe and weights as ours, and lines that say what was understood."""

    recipe: dict[str, Any]
    state: dict[str, Tensor]
    report: list[str]


def convert(
    content: Any,
    *,
    source: Path,
    class_names: Sequence[str] | None = None,
    labels: str | None = None,
    channel_order: ChannelOrder = "rgb",
    image_size: int | None = None,
) -> Imported:
    """Turns what a weight file holds into a recipe and weights of ours.

    Args:
        content: what was loaded.
        source: the file; `labels.txt` is looked for beside it where the layout has one.
        class_names, labels: the classes without background, or a file with one name a line.
        channel_order: of the images that the network was trained on; nothing in the file tells.
        image_size: side of the input, for MobileNetV1-SSD that was not trained on 300.

    Raises:
        BaseNetOnly: there is no detector in it.
        CheckpointError: no known layout, or keys and shapes that do not fit it.
        ConfigError: settings that do not fit.
    """
    if channel_order not in ("rgb", "bgr"):
        raise ConfigError(f"channel_order={channel_order}: choose rgb or bgr")
    state = tensors(content, source=source)
    layout = _recognise(state, source=source)
    if image_size is not None and layout.backbone == "vgg16":
        raise ConfigError(f"image_size={image_size}: the side of {layout.name} follows from its levels; leave it null")
    columns, levels = _count_outputs(layout, state)
    if columns > _MOST_CLASSES + 1:  # a small file can claim any shape
        raise CheckpointError(f"{source}: has outputs for {columns - 1} classes; over {_MOST_CLASSES} are not read")
    names, whence = _name_classes(layout, columns - 1, source=source, given=class_names, labels=labels)
    recipe = layout.recipe(levels=levels, class_names=names, columns=columns, image_size=image_size)
    own = build(recipe).state_dict()
    renamed = _renamed(layout, state, own, source=source)
    if channel_order == "bgr":
        first = next(key for key in own if key.startswith(_BASE))
        renamed[first] = renamed[first].flip(1)
    unused = [key for key in state if layout.ours(key) not in own]
    report = _describe(layout, recipe, channel_order=channel_order, names_from=whence)
    report.append(f"keys: {len(renamed)} used; not used: {', '.join(unused) or 'none'}")
    return Imported(recipe, own | renamed, report)


def tensors(content: Any, *, source: Path | str) -> dict[str, Tensor]:
    """The table of tensors in what was loaded, perhaps one level down.

    Raises:
        CheckpointError: there is none.
    """
    if isinstance(content, dict):
        nested = [content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)]
        table = {str(key): value for key, value in (nested or [content])[0].items()}
        if table and all(isinstance(value, Tensor) for value in table.values()):
            parallel = all(key.startswith("module.") for key in table)  # saved from inside DataParallel
            return {key.removeprefix("module.") if parallel else key: value for key, value in table.items()}
    raise CheckpointError(f"{source}: has no recipe, and is no table of tensors: no weights of a network")


def base_net(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """(name of the backbone, weights under the names of its `base`) in whatever layout, or None."""
    if "conv_stem.weight" in state:
        return "mobilenet_v1", _from_timm(state)
    layout = _best_layout(state)
    if layout is not None:
        renamed = {layout.ours(key) or "": value for key, value in state.items()}
        return layout.backbone, {key.removeprefix(_BASE): renamed[key] for key in renamed if key.startswith(_BASE)}
    found = {
        name: {match[1]: state[key] for key in state if (match := pattern.match(key))}
        for name, pattern in BASE_NETS.items()
    }
    name = max(found, key=lambda name: len(found[name]))
    return (name, found[name]) if found[name] else None


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """conv_stem and blocks.<stage>.<i> to the numbers of `base`."""
    blocks = sorted({tuple(map(int, key.split(".")[1:3])) for key in state if key.startswith("blocks.")})
    number = {block: position for position, block in enumerate(blocks, start=1)}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] in _TIMM_PARTS:
            renamed[f"{_TIMM_PARTS[parts[0]]}.{parts[1]}"] = value
        elif parts[0] == "blocks" and parts[3] in _TIMM_BLOCK_PARTS:
            block = number[int(parts[1]), int(parts[2])]
            renamed[f"{block}.{_TIMM_BLOCK_PARTS[parts[3]]}.{parts[4]}"] = value
    return renamed


def _best_layout(state: dict[str, Tensor]) -> Layout | None:
    """The layout that knows most of the keys, and at least half of them."""
    count, best = max(
        ((sum(layout.ours(key) is not None for key in state), layout) for layout in LAYOUTS), key=lambda pair: pair[0]
    )
    return best if 2 * count >= len(state) else None


def _recognise(state: dict[str, Tensor], *, source: Path) -> Layout:
    layout = _best_layout(state)
    if layout is not None and any((layout.ours(key) or "").startswith(_HEADS) for key in state):
        return layout
    found = base_net(state)
    if found is not None and 2 * len(found[1]) > len(state) and not any(key.startswith(_HEADS) for key in state):
        raise BaseNetOnly(
            f"{source}: the base net of {found[0]} without a detector; train one from it with backbone.weights={source}"
        )
    raise CheckpointError(
        f"{source}: has no recipe of this program, and {min(state)} belongs to no known layout "
        f"({'; '.join(layout.name for layout in LAYOUTS)})"
    )


def _count_outputs(layout: Layout, state: dict[str, Tensor]) -> tuple[int, int]:
    """(columns of the logits, feature levels), from the classification heads that are there."""
    levels = 7 if layout.theirs(f"{_HEADS}6.weight") in state else 6
    anchors = 4 if layout.backbone == "vgg16" else 6
    first = [state.get(layout.theirs(f"{_HEADS}0.{name}")) for name in ("weight", "bias")]
    rows = max((len(value) for value in first if value is not None and value.ndim), default=0)
    return max(2, rows // anchors), levels


def _renamed(layout: Layout, state: dict[str, Tensor], own: dict[str, Tensor], *, source: Path) -> dict[str, Tensor]:
    """The weights under our names.

    Raises:
        CheckpointError: keys that are missing, unknown or of another shape.
    """
    renamed = {ours: value for key, value in state.items() if (ours := layout.ours(key)) in own}
    missing = [layout.theirs(key) for key in own if key not in renamed and not _NOT_STORED.search(key)]
    unknown = [key for key in state if layout.ours(key) not in own and not _NOT_NEEDED.search(key)]
    shapes = [
        f"{layout.theirs(key)} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
        for key, value in renamed.items()
        if value.shape != own[key].shape
    ]
    faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    if any(faults.values()):
        told = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in faults.items() if keys)
        raise CheckpointError(f"{source}: looks like {layout.name}, but does not fit it: {told}")
    return renamed


def _name_classes(
    layout: Layout, count: int, *, source: Path, given: Sequence[str] | None, labels: str | None
) -> tuple[list[str], str]:
    """(names, where they come from)."""
    beside = source.parent / _LABELS
    if given is not None and labels is not None:
        raise ConfigError("class_names and labels: give one of the two")
    if given is not None:
        names, whence = list(given), "class_names"
    elif labels is not None or (layout.has_labels and beside.is_file()):
        path = beside if labels is None else Path(labels)
        names, whence = _read_labels(path), str(path)
    elif layout.name.startswith("torchvision") and count == 90:
        names, whence = _coco_names(), "COCO with its gaps"
    elif count == 80:
        names, whence = [name for name in _coco_names() if not name.startswith("N/A")], "COCO"
    elif count == 20:
        names, whence = list(VOC_NAMES), "PASCAL VOC"
    else:
        names, whence = [f"class_{number}" for number in range(1, count + 1)], ""
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(
            f"{source}: has outputs for {count} classes, {whence} has {len(names)} names ({len(set(names))} "
            "different): give the right list to python -m ssd import-weights with labels=FILE or class_names=[...]"
        )
    return names, whence


def _read_labels(path: Path) -> list[str]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read as a list of class names: {error}") from error
    return names[1:] if names[:1] and names[0].lower() == "background" else names


def _coco_names() -> list[str]:
    """The 90 categories by number. Those that COCO never used stay, or the scores of the others would change."""
    from torchvision.models.detection import SSD300_VGG16_Weights

    categories = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    return [f"N/A {number}" if name == "N/A" else name for number, name in enumerate(categories)][1:]


def _describe(layout: Layout, recipe: dict[str, Any], *, channel_order: ChannelOrder, names_from: str) -> list[str]:
    side, names = recipe["image_size"], recipe["class_names"]
    pixels = recipe["backbone"]["arguments"]
    squares = ", ".join(f"{scale * side:g}" for scale in recipe["priors"]["scales"])
    order = "RGB" if channel_order == "rgb" else "BGR, turned into RGB in the first convolution"
    lines = [
        f"format: {layout.name}, {side}x{side} pixels",
        f"classes: {len(names)} ({names_from or 'names not known'}): {', '.join(names)}",
        f"priors: squares of {squares} px; clip {layout.clip}",
        f"pixels: {order}; mean {pixels['mean']}, std {pixels['std']}",
    ]
    if not names_from:
        lines.append(
            "warning: the file does not name its classes; name them with python -m ssd import-weights "
            "labels=FILE or class_names=[...]"
        )
    return lines
