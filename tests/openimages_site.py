"""A miniature Open Images site: rendered images and CSV files for a FaultyServer."""

from __future__ import annotations

import io
import json
from functools import cache

from http_server import FaultyServer
from PIL import Image

from ssd.data.formats.shapes import read_shapes, render
from ssd.data.index import DetectionIndex

MIDS = {"/m/01g317": "Person", "/m/0k4j": "Car", "/m/01bjv": "Bus", "/m/0cmf2": "Airplane", "/m/0bt9lr": "Dog"}
KINDS = {
    "LabelName": "/m/0bl9f",
    "Subcategory": [{"LabelName": "/m/0k4j", "Subcategory": [{"LabelName": "/m/0bt9lr"}]}],
}
HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
OFFICIAL = {"train": "train", "val": "validation", "test": "test"}


def publish(server: FaultyServer, *, train: int = 24, val: int = 6, test: int = 6) -> None:
    """Serves class names, boxes and images under the official paths; `settings` has the addresses."""
    server.files["/boxes/bbox_labels_600_hierarchy.json"] = json.dumps(KINDS).encode()  # a dog is a car
    names = "".join(f"{mid},{name}\n" for mid, name in MIDS.items())
    server.files["/boxes/class-descriptions-boxable.csv"] = names.encode()
    for split, index in read_shapes(train=train, val=max(1, val), test=max(1, test), side_px=64, seed=0).items():
        official = OFFICIAL[split]
        count = {"train": train, "val": val, "test": test}[split]
        rows = [row for position in range(count) for row in _rows(index, position)]
        server.files[f"/boxes/{official}/{official}-annotations-bbox.csv"] = "\n".join([HEADER, *rows, ""]).encode()
        for position in range(count):
            server.files[f"/images/{official}/{image_id(split, position)}.jpg"] = _jpeg(index.paths[position])


def settings(server: FaultyServer) -> dict[str, str]:
    """The addresses, as arguments of OpenImagesDownload."""
    return {"annotations_url": f"{server.url}/boxes", "images_url": f"{server.url}/images"}


def image_id(split: str, position: int) -> str:
    return f"{list(OFFICIAL).index(split)}{position:015x}"


def _rows(index: DetectionIndex, position: int) -> list[str]:
    rows = index.rows(position)
    id = image_id(index.paths[position].split("/")[0], position)
    found = zip(index.labels[rows].tolist(), index.boxes[rows].tolist(), strict=True)
    return [f"{id},xclick,{list(MIDS)[label]},1,{x1},{x2},{y1},{y2},0,0,0,0,0" for label, (x1, y1, x2, y2) in found]


@cache
def _jpeg(path: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(render(path, side_px=64, seed=0)).save(buffer, format="JPEG")
    return buffer.getvalue()
