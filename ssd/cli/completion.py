"""Shell completion of `ssd COMMAND ...`, on top of Hydra's, which knows no commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import hydra

from ssd.cli.config import CONF


def complete(commands: Sequence[str]) -> None:
    """Answers `--shell-completion install=SHELL` with a script, and `query=SHELL` with what can follow.

    The shell's line is in the environment variable COMP_LINE, where its scripts put it.
    """
    query = sys.argv[1] if len(sys.argv) > 1 else ""
    words = os.environ.get("COMP_LINE", "").split(" ")
    name = "train"
    if query.startswith("query="):
        if len(words) <= 2:
            separator = "\n" if query == "query=fish" else " "
            print(separator.join(command for command in commands if command.startswith("".join(words[1:]))))
            return
        name = words[1] if words[1] in commands else name
        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    sys.argv[1:] = ["--shell-completion", query]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=name.replace("-", "_"))(lambda _: None)()
