"""The SSD network: a backbone, and the priors and prediction heads that fit its feature maps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssd.common.class_names import check_class_names
from ssd.common.errors import CheckpointError, ConfigError, SSDError
from ssd.common.image_size import ImageSize, height_width, is_image_size, simplest
from ssd.common.structures import Predictions
from ssd.model.backbones import BACKBONES
from ssd.model.backbones.layers import initialize
from ssd.model.box_coder import num_columns
from ssd.model.priors import PriorSpec

RECIPE_VERSION = 1  # a later version must still build the networks of all earlier ones
_MAX_IMAGE_SIZE = 4096
_MAX_PRIORS = 2_000_000  # VGG16 with 4096 pixels has 1.6 million
_MAX_PREDICTIONS = 2**29  # numbers for one image: 2 GiB

Freeze = Literal["nothing", "base", "all_but_heads"]


class SSD(nn.Module):
    """Single Shot MultiBox Detector (arXiv 1512.02325).

    Args:
        backbone: images in, feature maps out; see `ssd.model.backbones`.
        prior_spec: has as many levels as the backbone has feature maps.
        class_names: the C classes, without background.
        image_size: side of the input in pixels, or (height, width).

    Raises:
        ConfigError: priors, backbone and image size do not fit together, or give too many predictions.
        DataError: too many classes, or a name that no class can have.
    """

    priors: Float[Tensor, "P 4"]

    def __init__(
        self, backbone: nn.Module, prior_spec: PriorSpec, *, class_names: Sequence[str], image_size: ImageSize
    ) -> None:
        super().__init__()
        check_class_names(class_names)
        self.backbone = backbone
        self.prior_spec = prior_spec
        self.class_names = tuple(class_names)
        self.image_size = simplest(image_size)
        shapes = measure(backbone, image_size=image_size)
        self.grids = tuple((rows, columns) for _, rows, columns in shapes)
        self._check_size()
        self.register_buffer("priors", prior_spec.build(self.grids, image_size=image_size), persistent=False)

        def heads(channels: int) -> nn.ModuleList:
            per_level = zip(shapes, prior_spec.per_cell, strict=True)
            return nn.ModuleList(
                nn.Conv2d(shape[0], count * channels, kernel_size=3, padding=1) for shape, count in per_level
            )

        self.classification_heads = heads(num_columns(len(self.class_names)))
        self.localization_heads = heads(4)
        initialize(self.classification_heads)
        initialize(self.localization_heads)
        self.thresholds: tuple[float, ...] | None = None  # of each class the score from which a box is shown
        self._frozen: list[nn.Module] = []

    def _check_size(self) -> None:
        """Checks, before anything of that size is allocated, that the predictions for an image fit into memory."""
        cells = (rows * columns for rows, columns in self.grids)
        priors = sum(count * per_cell for count, per_cell in zip(cells, self.prior_spec.per_cell, strict=False))
        if priors > _MAX_PRIORS or priors * (num_columns(len(self.class_names)) + 4) > _MAX_PREDICTIONS:
            raise ConfigError(
                f"image_size={self.image_size} with {self.prior_spec.per_cell} priors per cell gives {priors} priors "
                f"for {len(self.class_names)} classes: at most {_MAX_PRIORS} priors and {_MAX_PREDICTIONS} predicted "
                "numbers are possible; choose a smaller image_size or fewer aspect ratios"
            )

    def forward(self, images: UInt8[Tensor, "B 3 H W"]) -> Predictions:
        """Predicts logits and offsets, in the order of the priors, from raw RGB pixels."""
        features = self.backbone(images)
        return Predictions(
            logits=_flatten(self.classification_heads, features, channels=num_columns(len(self.class_names))),
            offsets=_flatten(self.localization_heads, features, channels=4),
        )

    def freeze(self, what: Freeze) -> None:
        """Freezes weights and BatchNorm statistics of the base net, or of everything but the heads.

        Raises:
            ConfigError: `what` is base, and the backbone has no module of that name.
        """
        base: Any = getattr(self.backbone, "base", None)
        if what == "base" and base is None:
            raise ConfigError(
                f"module.freeze=base: {type(self.backbone).__name__} has no module named base; "
                "choose nothing or all_but_heads"
            )
        frozen: dict[Freeze, list[nn.Module]] = {"nothing": [], "base": [base], "all_but_heads": [self.backbone]}
        self._frozen = frozen[what]
        self.requires_grad_(True)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SSD:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def recipe(self) -> dict[str, Any]:
        """Plain types from which `build` constructs the same network."""
        thresholds = {} if self.thresholds is None else {"thresholds": list(self.thresholds)}
        return thresholds | {
            "version": RECIPE_VERSION,
            "backbone": {"name": self.backbone.name, "arguments": self.backbone.arguments},
            "priors": self.prior_spec.as_dict(),
            "class_names": list(self.class_names),
            "image_size": list(self.image_size) if isinstance(self.image_size, tuple) else self.image_size,
        }


def build(recipe: dict[str, Any]) -> SSD:
    """The network that a checkpoint's recipe describes, with fresh weights.

    Names are looked up in BACKBONES, never imported.

    Raises:
        CheckpointError: another recipe version, an unknown backbone, or a missing or invalid field.
    """
    version = recipe.get("version")
    if version != RECIPE_VERSION:
        raise CheckpointError(f"recipe version {version}: this program reads version {RECIPE_VERSION}; update it")
    try:
        if not is_image_size(recipe["image_size"], low=32, high=_MAX_IMAGE_SIZE):
            raise CheckpointError(f"image_size {recipe['image_size']!r}: must be from 32 to {_MAX_IMAGE_SIZE}")
        names = recipe["class_names"]
        if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
            raise CheckpointError(f"class_names {str(names)[:100]}: must be a list of texts")
        backbone = recipe["backbone"]
        if backbone["name"] not in BACKBONES:
            raise CheckpointError(f"backbone {backbone['name']!r} is not one of {', '.join(BACKBONES)}")
        thresholds = read_thresholds(recipe)
        model = SSD(
            BACKBONES[backbone["name"]](**backbone["arguments"]),
            PriorSpec(**recipe["priors"]),
            class_names=names,
            image_size=recipe["image_size"],
        )
        model.thresholds = thresholds
        return model
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, SSDError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"recipe does not describe a network: {type(error).__name__}: {reason}") from error


def read_thresholds(recipe: dict[str, Any]) -> tuple[float, ...] | None:
    """The thresholds of the classes in a recipe; None in files of earlier versions.

    Raises:
        CheckpointError: they are not one number from 0 to 1 for each class.
    """
    values = recipe.get("thresholds")
    if values is None:
        return None
    if (
        not isinstance(values, list)
        or len(values) != len(recipe["class_names"])
        or not all(type(value) in (int, float) and 0 <= value <= 1 for value in values)
    ):
        raise CheckpointError(f"thresholds {str(values)[:100]}: must be a number from 0 to 1 for each class")
    return tuple(map(float, values))


def build_outline(recipe: dict[str, Any]) -> SSD:
    """As `build`, without memory for the weights, of which a stranger's recipe may claim any size."""
    with torch.device("meta"):
        return build(recipe)


@torch.no_grad()
def measure(backbone: nn.Module, *, image_size: ImageSize) -> list[tuple[int, int, int]]:
    """(channels, rows, columns) of each feature map, measured by running the backbone on the meta device.

    Raises:
        ConfigError: the input is too small for the backbone.
    """
    try:
        images = torch.empty(1, 3, *height_width(image_size), dtype=torch.uint8, device="meta")
        features = copy.deepcopy(backbone).to("meta").eval()(images)
    except RuntimeError as error:
        raise ConfigError(
            f"image_size={image_size} does not fit {type(backbone).__name__}: "
            f"{str(error).splitlines()[0]}; choose a larger image_size or a backbone with fewer levels"
        ) from error
    return [tuple(feature.shape[1:]) for feature in features]


def _flatten(heads: nn.ModuleList, features: list[Tensor], *, channels: int) -> Float[Tensor, "B P K"]:
    outputs = (head(feature) for head, feature in zip(heads, features, strict=True))
    # [B, anchors*K, H, W] -> [B, H*W*anchors, K]; shape[0], because len() would make B constant in an export
    return torch.cat([output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, channels) for output in outputs], dim=1)
