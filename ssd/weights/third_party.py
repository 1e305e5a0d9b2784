"""Weights of other SSD programs: recognised by their keys, renamed, and given the recipe that their code implies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from ssd.common.class_names import check_class_names
from ssd.common.errors import CheckpointError, ConfigError, DataError
from ssd.common.text import decode_text, one_line
from ssd.common.untrusted_files import read_untrusted
from ssd.model.backbones import BACKBONES
from ssd.model.box_coder import num_columns
from ssd.model.ssd import RECIPE_VERSION, build, build_outline
from ssd.weights.safe_load import check_storage
from ssd.weights.third_party_layouts import COCO_COLUMNS, LAYOUTS, VOC_NAMES, Layout

ChannelOrder = Literal["rgb", "bgr"]

_LABELS = "labels.txt"
_BASE = "backbone.base."
_HEADS = "classification_heads."
_NOT_IN_THEIRS = re.compile(r"pixel_norm|num_batches_tracked$")  # given by the layout, or starts at 0
_NOT_IN_OURS = re.compile(r"(^|\.)(priors|anchors)$")
_MAX_CLASSES = 2000
_MAX_LABELS_BYTES = 1 << 20
_MAX_KEY_LENGTH = 300
_COCO_CATEGORIES = [  # the 90 ids after background; unused ones are kept, or the scores of the others would change
    f"N/A {number}" if name == "N/A" else name
    for number, name in enumerate(SSD300_VGG16_Weights.COCO_V1.meta["categories"])
][1:]


class BaseNetOnly(CheckpointError):  # noqa: N818  names what was found
    """The file holds a base net without a detector."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A converted network: recipe and weights as in our checkpoints, and report lines that describe it."""

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
    """Converts the content of a weight file to a recipe and weights of this program.

    Args:
        content: what was loaded.
        source: the file; `labels.txt` beside it is read where the layout has one.
        class_names, labels: the classes without background, or a file with one name per line.
        channel_order: of the images that the network was trained on; the file does not say.
        image_size: input side, for a MobileNetV1-SSD that was not trained on 300 pixels.

    Raises:
        BaseNetOnly: the file holds no detector.
        CheckpointError: an unknown layout, or keys and shapes that do not fit it.
        ConfigError: settings that do not fit the file.
    """
    if channel_order not in ("rgb", "bgr"):
        raise ConfigError(f"channel_order={channel_order}: choose rgb or bgr")
    state = find_tensors(content, source=source)
    layout = _detect_layout(state, source=source)
    if image_size is not None and not layout.any_image_size:
        raise ConfigError(f"image_size={image_size}: {layout.name} has a fixed input side; leave it null")
    columns, levels = _count_outputs(layout, state)
    num_classes = columns - num_columns(0)
    if num_classes > _MAX_CLASSES:  # a small file can declare any shape
        raise CheckpointError(f"{source}: has outputs for {num_classes} classes; the limit is {_MAX_CLASSES}")
    names, names_source = _find_class_names(layout, num_classes, source=source, given=class_names, labels=labels)
    coco = layout.category_ids or columns in COCO_COLUMNS
    recipe = {"version": RECIPE_VERSION, "class_names": names, **layout.network(levels, coco, image_size)}
    outline = build_outline(recipe).state_dict()
    renamed = _rename_tensors(layout, state, outline, source=source)
    check_storage(renamed, name=str(source))
    own = build(recipe).state_dict()
    if channel_order == "bgr":
        first_convolution = next(key for key in own if key.startswith(_BASE))
        renamed[first_convolution] = renamed[first_convolution].flip(1)
    report = _describe(layout, recipe, channel_order=channel_order, names_source=names_source)
    unused = [key for key in state if layout.to_ours(key) not in own]
    report.append(f"tensors: {len(renamed)} used; unused: {', '.join(unused) or 'none'}")
    return Imported(recipe, own | renamed, report)


def find_tensors(content: Any, *, source: Path | str) -> dict[str, Tensor]:
    """The tensors by key, at the top level of what was loaded or one level below.

    Raises:
        CheckpointError: there are none.
    """
    if isinstance(content, dict):
        nested = [content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)]
        table = {str(key): value for key, value in (nested or [content])[0].items()}
        if any(len(key) > _MAX_KEY_LENGTH or one_line(key) != key for key in table):
            raise CheckpointError(f"{source}: a tensor has a name with control characters, or of any length; refused")
        if table and all(isinstance(value, Tensor) for value in table.values()):
            parallel = all(key.startswith("module.") for key in table)  # saved from DataParallel
            return {key.removeprefix("module.") if parallel else key: value for key, value in table.items()}
    raise CheckpointError(f"{source}: has no recipe and is not a table of tensors; give the weights of a network")


def find_base_net(state: dict[str, Tensor]) -> tuple[str, dict[str, Tensor]] | None:
    """(name of the backbone, weights under the names of its `base`) from any known layout; None for an unknown one."""
    layout = _best_layout(state)
    if layout is not None:
        renamed = {layout.to_ours(key) or "": value for key, value in state.items()}
        return layout.backbone, {key.removeprefix(_BASE): renamed[key] for key in renamed if key.startswith(_BASE)}
    readers = {name: getattr(backbone, "base_weights", None) for name, backbone in BACKBONES.items()}
    found = {name: read(state) for name, read in readers.items() if read is not None}
    name = max(found, key=lambda name: len(found[name]))
    return (name, found[name]) if found[name] else None


def _best_layout(state: dict[str, Tensor]) -> Layout | None:
    """The layout that knows the most keys, if it knows at least half of them."""

    def known(layout: Layout) -> int:
        return sum(layout.to_ours(key) is not None for key in state)

    best = max(LAYOUTS, key=known)
    return best if 2 * known(best) >= len(state) else None


def _detect_layout(state: dict[str, Tensor], *, source: Path) -> Layout:
    layout = _best_layout(state)
    if layout is not None and any((layout.to_ours(key) or "").startswith(_HEADS) for key in state):
        return layout
    found = find_base_net(state)
    if found is not None and 2 * len(found[1]) > len(state) and not any(key.startswith(_HEADS) for key in state):
        raise BaseNetOnly(
            f"{source}: the base net of {found[0]} without a detector; train one from it with backbone.weights={source}"
        )
    raise CheckpointError(
        f"{source}: has no recipe of this program, and {min(state)} belongs to no known layout "
        f"({'; '.join(layout.name for layout in LAYOUTS)})"
    )


def _count_outputs(layout: Layout, state: dict[str, Tensor]) -> tuple[int, int]:
    """(columns of the logits, feature levels), from the shapes of the classification heads."""
    levels = 7 if layout.to_theirs(f"{_HEADS}6.weight") in state else 6
    first = [state.get(layout.to_theirs(f"{_HEADS}0.{name}")) for name in ("weight", "bias")]
    rows = max((len(value) for value in first if value is not None and value.ndim), default=0)
    return max(num_columns(1), rows // layout.first_anchors), levels


def _rename_tensors(
    layout: Layout, state: dict[str, Tensor], own: dict[str, Tensor], *, source: Path
) -> dict[str, Tensor]:
    """The weights under our names; raises CheckpointError if a key is missing or unknown, or a shape differs."""
    renamed = {ours: value for key, value in state.items() if (ours := layout.to_ours(key)) in own}
    problems = {
        "missing": [layout.to_theirs(key) for key in own if key not in renamed and not _NOT_IN_THEIRS.search(key)],
        "unknown": [key for key in state if layout.to_ours(key) not in own and not _NOT_IN_OURS.search(key)],
        "of another shape": [
            f"{layout.to_theirs(key)} is {tuple(value.shape)}, not {tuple(own[key].shape)}"
            for key, value in renamed.items()
            if value.shape != own[key].shape
        ],
    }
    if any(problems.values()):
        details = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:5])}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{source}: looks like {layout.name}, but does not fit it: {details}")
    return renamed


def _find_class_names(
    layout: Layout, count: int, *, source: Path, given: Sequence[str] | None, labels: str | None
) -> tuple[list[str], str]:
    """(names, their source for messages: empty if the names are made up)."""
    beside = source.parent / _LABELS
    if given is not None and labels is not None:
        raise ConfigError("class_names and labels: give one of the two")
    if given is not None:
        names, names_source = list(given), "class_names"
    elif labels is not None or (layout.has_labels and beside.is_file()):
        path = beside if labels is None else Path(labels)
        names, names_source = _read_labels(path), str(path)
    elif layout.category_ids and count == len(_COCO_CATEGORIES):
        names, names_source = _COCO_CATEGORIES, "COCO with the gaps in its category ids"
    elif count == 80:
        names, names_source = [name for name in _COCO_CATEGORIES if not name.startswith("N/A")], "COCO"
    elif count == 20:
        names, names_source = list(VOC_NAMES), "PASCAL VOC"
    else:
        names, names_source = [f"class_{number}" for number in range(1, count + 1)], ""
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(
            f"{source}: has outputs for {count} classes, {names_source} has {len(names)} names ({len(set(names))} "
            "different): give the right list to ssd import-weights with labels=FILE or class_names=[...]"
        )
    return names, names_source


def _read_labels(path: Path) -> list[str]:
    try:
        text = decode_text(
            read_untrusted(path, max_bytes=_MAX_LABELS_BYTES, what="list of class names"), name=str(path)
        )
        names = [line.strip() for line in text.splitlines() if line.strip()]
        check_class_names(names)
    except DataError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise CheckpointError(f"{prefix}{error}") from error
    return names[1:] if names[:1] and names[0].lower() == "background" else names


def _describe(layout: Layout, recipe: dict[str, Any], *, channel_order: ChannelOrder, names_source: str) -> list[str]:
    side, names = recipe["image_size"], recipe["class_names"]
    arguments = recipe["backbone"]["arguments"]
    squares = ", ".join(f"{scale * side:g}" for scale in recipe["priors"]["scales"])
    order = "RGB" if channel_order == "rgb" else "BGR, converted to RGB in the first convolution"
    lines = [
        f"format: {layout.name}, {side}x{side} pixels",
        f"classes: {len(names)} ({names_source or 'names unknown'}): {', '.join(names)}",
        f"priors: squares of {squares} px; clip {recipe['priors']['clip']}",
        f"pixels: {order}; mean {arguments['mean']}, std {arguments['std']}",
    ]
    if not names_source:
        naming = "ssd import-weights labels=FILE or class_names=[...]"
        lines.append(f"warning: the file does not name its classes; name them with {naming}")
    return lines
