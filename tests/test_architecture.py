"""Promises about the code itself: what imports what, what is never called, what README says."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "ssd").rglob("*.py"))

# A module or package imports only from rows above its own.
LAYERS = [
    {"errors"},
    {
        "boxes",
        "cluster",
        "ema",
        "files",
        "jpeg",
        "layers",
        "meter",
        "placement",
        "runtime",
        "schedules",
        "schemas",
        "structures",
    },
    {"backbones", "coder", "command_schemas", "finite", "images", "priors"},
    {"config", "data", "draw", "html", "losses", "model", "postprocess"},
    {"command", "deployment", "downloads", "inspection", "predictor", "results", "weights"},
    {"evaluation", "prediction", "runs"},
    {"module"},
    {"assemble", "monitoring"},
]
ENTRY_POINTS = {"download", "inspect", "evaluate", "export", "benchmark", "import_weights"}  # python -m ssd.NAME
LAYERS.append(ENTRY_POINTS)
ROW = {name: row for row, names in enumerate(LAYERS) for name in names}
FORBIDDEN = re.compile(r"weights_only\s*=\s*False|pickle\.loads?\(|os\.system|shell\s*=\s*True|load_from_checkpoint")


def part(path: Path) -> str:
    return path.relative_to(ROOT / "ssd").parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ssd":
            names = node.module.split(".")[1:2] or [alias.name for alias in node.names]
            parts.update(names)
    return parts


def imported_modules(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {name for node in nodes for name in (f"{node.module}", *(f"{node.module}.{a.name}" for a in node.names))}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    if path.name == "__init__.py" and path.parent.name == "ssd":
        return
    row = ROW[part(path)]
    above = {name for name, other in ROW.items() if other < row} | {part(path)}
    assert imported_parts(path) <= above


def test_no_two_modules_need_each_other() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}
    graph = {name: imported_modules(path) & names.keys() - {name} for name, path in names.items() if name != "ssd"}
    TopologicalSorter(graph).prepare()  # raises where there is a ring


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unsafe_is_called_and_only_entry_points_instantiate(path: Path) -> None:
    text = path.read_text()
    assert not FORBIDDEN.search(text)
    if part(path) not in {*ENTRY_POINTS, "assemble"}:
        assert "instantiate(" not in text
        assert "assemble" not in imported_parts(path)


def test_files_hold_one_concept() -> None:
    assert {str(path): lines for path in SOURCES if (lines := len(path.read_text().splitlines())) > 300} == {}


def test_every_command_block_of_the_readme_is_run_by_ci() -> None:
    blocks = re.findall(r"```(?:bash|console)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    commands = [line.strip() for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]
    checked = (ROOT / ".ci" / "run").read_text().splitlines()
    missing = [command for command in commands if command not in checked]
    assert commands
    assert missing == []
