"""The settings that the readers of all formats share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from ssd.common.errors import ConfigError


class CommonOptions(TypedDict, total=False):
    """The keyword arguments of every reader; see ReadOptions."""

    classes: Sequence[str] | None
    class_map: Mapping[str, str] | None
    val_share: float
    test_share: float
    group_by: str | None
    strict: bool
    seed: int


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The settings that the readers of all formats share.

    Args:
        classes: the class list; all classes of the files if None. Objects of other classes are skipped and counted.
        class_map: new names of classes; several may get the same one. `classes` are names after that.
        val_share, test_share: of the images, 0..1, where the folder has no such split; 0 is no such split.
        group_by: regular expression; images stay in one split if their paths match it with the same text (that of its
            groups, if it has some), such as the frames of one video.
        strict: a box that would have to be dropped or clipped, or an unreadable image, is an error.
        seed: selects the images of splits that are drawn.

    Raises:
        ConfigError: `group_by` is no regular expression.
    """

    classes: Sequence[str] | None = None
    class_map: Mapping[str, str] | None = None
    val_share: float = 0.1
    test_share: float = 0.1
    group_by: str | None = None
    strict: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.group_by or "")
        except re.error as error:
            raise ConfigError(f"dataset.group_by={self.group_by}: no regular expression: {error}") from error
