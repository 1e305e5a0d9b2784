"""Writes small datasets in the layout of Open Images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voc_files import write_image

CLASSES = {"/m/01g317": "Person", "/m/0k4j": "Car", "/m/01bjv": "Bus", "/m/0cmf2": "Airplane"}
MIDS = {name: mid for mid, name in CLASSES.items()}
COLUMNS = ["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"]
COLUMNS += ["IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"]


def row(id: str, name: str = "Person", /, **more: object) -> dict[str, object]:
    fixed = {"ImageID": id, "Source": "xclick", "LabelName": MIDS.get(name, name), "Confidence": 1}
    edges = {"XMin": 0.1, "XMax": 0.5, "YMin": 0.25, "YMax": 0.75}
    return fixed | edges | dict.fromkeys(COLUMNS[8:], 0) | more


def csv_text(rows: list[dict[str, object]], columns: list[str] = COLUMNS) -> str:
    return "\n".join([",".join(columns), *(",".join(str(item[name]) for name in columns) for item in rows)]) + "\n"


def write(root: Path, split: str, rows: list[dict[str, object]], *, images: bool = True, **how: Any) -> Path:
    path = root / f"{split}-annotations-bbox.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(csv_text(rows, **how))
    for item in rows if images else []:
        write_image(root / split / f"{item['ImageID']}.jpg")
    write_classes(root)
    return path


def write_classes(root: Path, name: str = "class-descriptions-boxable.csv", *, header: str = "") -> None:
    (root / name).write_text(header + "".join(f"{mid},{name}\n" for mid, name in CLASSES.items()))
