"""A run folder may come from a stranger: what is in it is checked before anything there is opened or written.

The settings that a run was started with are signed with the secret of its user. Saved settings that lead outside of the
folder, to data, weights or servers, count on a resume only if this signature is right; other people's must be given
again. Imports nothing heavy: the command line needs it before anything else.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ssd.common.errors import DataError
from ssd.common.saved_config import OVERRIDES_FILE
from ssd.common.text import decode_text
from ssd.common.untrusted_files import check_inside, read_untrusted
from ssd.common.user_key import keyed_digest

_SIGNATURE = "# signature: "  # of the lines above
MAX_YAML_BYTES = 1 << 19  # of a file in .hydra; one of a run on 1,200 classes has 60 kB
_FOLDERS = (".hydra", "checkpoints", "tensorboard")
_FILES = ("metrics.csv", "model.safetensors", "multirun.yaml", "train.log")


def check_run_folder(folder: Path) -> None:
    """Checks every file that training in `folder` reads or writes; a folder that does not exist is fine.

    Raises:
        DataError: one leads out of the folder through a link, or is neither a regular file nor a folder; or a file is
            in the place of a folder, or the other way round.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = path.name
        if name in _FOLDERS:
            _check(path, folder, is_folder=True)
            _check_content(path, folder)
        elif name in _FILES or name.startswith("."):
            _check(path, folder, is_folder=False if name in _FILES else None)


def check_sweep_folder(folder: Path) -> None:
    """`check_run_folder` of a sweep and of its jobs, which are the folders in it."""
    check_run_folder(folder)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_symlink() and path.name.isdecimal():
            check_inside(path, folder)
        if path.is_dir():
            check_run_folder(path)


def _check_content(start: Path, root: Path) -> None:
    """Checks what is below a folder; links to folders within `root` are followed."""
    waiting, seen = [start], {os.path.realpath(start)}
    while waiting:
        folder = waiting.pop()
        for path in sorted(folder.iterdir()):
            _check(path, root, is_folder=None)
            if path.is_dir() and (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                waiting.append(path)


def _check(path: Path, root: Path, *, is_folder: bool | None) -> None:
    check_inside(path, root)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:  # a link to nothing, within the folder
        return
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; remove it") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path}: neither a regular file nor a folder, as a run has them; remove it")
    if is_folder is not None and stat.S_ISDIR(mode) != is_folder:
        expected, other = ("folder", "file") if is_folder else ("file", "folder")
        raise DataError(f"{path}: a {other}, where a run has a {expected}; restore it from a copy, or remove it")


def signed(overrides: str) -> str:
    """The content of the file of overrides, with a last line that only this user's processes can write.

    It is no file of its own: other processes of the run may read both while they are replaced.
    """
    digest = keyed_digest([b"overrides", overrides.encode()])
    return overrides if digest is None else f"{overrides}{_SIGNATURE}{digest}\n"


def is_signed(folder: Path) -> bool:
    """Whether this user's run wrote the overrides in `folder` as they are now."""
    try:
        text = decode_text(read_untrusted(folder / OVERRIDES_FILE, max_bytes=MAX_YAML_BYTES), name=OVERRIDES_FILE)
    except DataError:
        return False
    overrides, found, _ = text.rpartition(_SIGNATURE)
    return bool(found) and text == signed(overrides)
