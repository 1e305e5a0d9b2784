"""Promises about the code itself: what imports what, what is never called, what README says."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ssd").rglob("*.py"))

# A package imports only from itself and from packages below it.
ROOMS = ["cli", "training", "export", "evaluation", "inference", "data", "weights", "visualization", "model", "common"]
FORBIDDEN = re.compile(r"weights_only\s*=\s*False|pickle\.loads?\(|os\.system|shell\s*=\s*True|load_from_checkpoint")


def room(path: Path) -> str:
    return path.relative_to(ROOT / "ssd").parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def imported_rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported_modules(path) if re.match(r"ssd\.\w+\.", name)}


def test_everything_lies_in_a_room() -> None:
    assert {path.name for path in (ROOT / "ssd").glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {room(path) for path in SOURCES if path.parent != ROOT / "ssd"} == set(ROOMS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    if path.parent != ROOT / "ssd":
        assert imported_rooms(path) <= set(ROOMS[ROOMS.index(room(path)) :])


def test_few_arrows_between_the_rooms() -> None:
    arrows = {(room(path), other) for path in SOURCES for other in imported_rooms(path)}
    assert len({arrow for arrow in arrows if arrow[0] in ROOMS and arrow[0] != arrow[1]}) <= 30


def test_no_two_modules_need_each_other() -> None:
    names = {module_name(path): path for path in SOURCES}
    graph = {name: imported_modules(path) & names.keys() - {name} for name, path in names.items() if name != "ssd"}
    TopologicalSorter(graph).prepare()  # raises where there is a ring


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe_is_called_and_only_the_command_line_instantiates(path: Path) -> None:
    text = path.read_text()
    assert not FORBIDDEN.search(text)
    if room(path) != "cli":
        assert "instantiate(" not in text
        assert not {name for name in imported_modules(path) if re.match("(hydra|omegaconf)", name)}


# Words of an earlier dialect; the plain terms are image, source, resume, skip, print, explicit, correct.
DIALECT = re.compile(
    r"\b(pictures?|whence|go(es)? on|set aside|put up with|told|asked for|wish(es)?|mended)\b", re.IGNORECASE
)


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "conf").rglob("*.yaml")), ROOT / "README.md"], ids=str)
def test_the_language_is_plain(path: Path) -> None:
    if path.name != "saved_config.py":  # it has the names of earlier versions
        assert DIALECT.findall(path.read_text()) == []


def test_files_hold_one_concept() -> None:
    assert {str(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 300} == {}


def test_every_command_block_of_the_readme_is_run_by_ci() -> None:
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]
    checked = (ROOT / ".ci" / "run").read_text().splitlines()
    missing = [command for command in commands if command not in checked]
    assert commands
    assert missing == []


# Calls that open or parse a file. Files of strangers are opened by ssd/common/untrusted_*.py and what builds on them;
# each other place is named here with what it opens.
OPENS = re.compile(
    r"([^()]+(\([^()]*\))?(\[\w+\])?\.)?(open|read_text|read_bytes|ZipFile|VideoCapture)\("
    r"|safe_open\(|yaml\.(safe_)?load\w*\(|json\.loads?\(|np\.load\(|OmegaConf\.load\(|torch\.load\(|onnx\.load\w*\("
)
OURS = ("read_text(", "read_bytes(")  # of ssd/common
OPENED_ELSEWHERE = {
    "cli/app.py": 2,  # /dev/null, for a closed output
    "common/atomic_files.py": 1,  # to flush what was written
    "common/downloads.py": 1,  # writes a part, after links were removed
    "common/image_header.py": 2,  # Pillow, on a file that is open, with the allowed formats
    "data/cache.py": 3,  # safetensors twice, after a check of the file; the program's own code
    "data/download/voc.py": 1,  # an archive that is open
    "export/quantize.py": 1,  # a file that was just written
    "inference/onnx_file.py": 1,  # of bytes that were read and checked
    "inference/remote.py": 1,  # writes into a temporary folder
    "inference/video.py": 2,  # OpenCV, after a check of the file, and cameras
    "inference/writers.py": 1,  # writes
    "training/csv_logger.py": 2,  # writes
    "training/diagnostics.py": 1,  # /proc
    "weights/checkpoint.py": 1,  # safetensors, after a check of the file
    "weights/safe_load.py": 3,  # a file that is open and was scanned
}


def test_files_of_strangers_are_opened_in_one_place() -> None:
    counts = {}
    for path in SOURCES:
        name = str(path.relative_to(ROOT / "ssd"))
        tree = ast.parse(path.read_text())
        calls = [ast.unparse(node.func) + "(" for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found = [call for call in calls if OPENS.fullmatch(call) and call not in OURS]
        if found and not name.startswith("common/untrusted_"):
            counts[name] = len(found)
    assert counts == OPENED_ELSEWHERE
