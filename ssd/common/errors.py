"""Errors that a user can cause or must act on; each class carries its exit code.

The commands print the message as one line and exit with `exit_code`; only a bug prints a traceback. A message names
the file (with line or field), the value, the rule that it breaks, and the fix.
"""

from __future__ import annotations


class SSDError(Exception):
    """Base class of all errors that are reported in one line."""

    exit_code = 1


class ConfigError(SSDError):
    """Invalid configuration or usage."""

    exit_code = 2


class DataError(SSDError):
    """Invalid data: an image, an annotation, a dataset folder."""

    exit_code = 3


class DamagedImageError(DataError):
    """Part of an image cannot be decoded; those pixels are gray or wrong."""


class CheckpointError(DataError):
    """A file that is not one of our checkpoints, is damaged, or does not fit the model."""


class NonFiniteLossError(DataError):
    """The loss or a gradient became NaN or infinite; the weights of the previous step are kept."""


class PartialError(SSDError):
    """Part of the work is done and written; the message lists the rest."""

    exit_code = 4


class JobError(SSDError):
    """A job of a sweep failed, or all did; `exit_code` is set to that of the cause."""


class MachineError(SSDError):
    """The environment fails: disk, permissions, memory, device or network."""

    exit_code = 5
