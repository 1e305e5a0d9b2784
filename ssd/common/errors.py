"""Errors a user can cause or must act on; each carries the exit code of its kind.

The entry points print the message as one line and leave with `exit_code`; a traceback is printed for a bug of ours
only. A message names the file (and line or field), the value, the rule that it breaks, and the fix.
"""

from __future__ import annotations


class SSDError(Exception):
    """Base of all errors that are reported in one line."""

    exit_code = 1


class ConfigError(SSDError):
    """Wrong configuration or usage."""

    exit_code = 2


class DataError(SSDError):
    """Bad data: an image, an annotation, a dataset folder."""

    exit_code = 3


class DamagedImageError(DataError):
    """Part of an image's pixels are gray or wrong."""


class CheckpointError(DataError):
    """A file that is no checkpoint of ours, is damaged, or does not fit."""


class NonFiniteLossError(DataError):
    """The loss or a gradient became NaN or infinite; the weights of the step before are kept."""


class PartialError(SSDError):
    """Part of the work was done and written; the rest is listed."""

    exit_code = 4


class MachineError(SSDError):
    """Disk, permission, memory or shared memory."""

    exit_code = 5
