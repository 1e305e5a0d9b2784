"""Random datasets, written in each format and in the layouts that people have."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from ssd.data.analysis.index_lines import write_index
from ssd.data.splits import Splits

SPLITS = ("train", "val", "test")
CLASSES = ("cat", "dog", "red car", "überholen")


@dataclass(frozen=True)
class Scene:
    """An image and its objects: class, xyxy in pixels (0 is the edge), ignore."""

    split: str
    stem: str
    size: tuple[int, int]  # (H, W)
    objects: tuple[tuple[str, tuple[float, float, float, float], bool], ...]


@cache
def jpeg(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def random_scenes(rng: random.Random, *, images: int = 9, ignore: bool = True) -> list[Scene]:
    """The three splits in turn; every split has an object that counts, and an image without objects."""
    scenes = []
    for number in range(images):
        height, width = rng.choice([(40, 60), (64, 48), (33, 97)])
        count = 1 if number < 3 else rng.choice([0, 1, 2, 5])
        boxes = {random_box(rng, height, width) for _ in range(count)}
        objects = [(rng.choice(CLASSES), box, ignore and number >= 3 and rng.random() < 0.3) for box in sorted(boxes)]
        stem = rng.choice(["img_{}", "{}", "scene {}", "cam.{}.x", "Foto{}é"]).format(number)
        scenes.append(Scene(SPLITS[number % 3], stem, (height, width), tuple(objects)))
    return scenes


def random_box(rng: random.Random, height: int, width: int) -> tuple[float, float, float, float]:
    x1, y1 = rng.randrange(width - 4), rng.randrange(height - 4)
    return x1, y1, rng.randrange(x1 + 2, width + 1), rng.randrange(y1 + 2, height + 1)


def put(root: Path, path: str, content: str | bytes) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)


# PASCAL VOC


def voc_xml(scene: Scene) -> str:
    height, width = scene.size
    lines = ["<annotation>", f"  <filename>{escape(scene.stem)}.jpg</filename>"]
    lines.append(f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for name, box, ignore in scene.objects:
        edges = "".join(
            f"<{tag}>{edge + 1:g}</{tag}>" for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        lines += ["  <object>", f"    <name>{escape(name)}</name>", f"    <difficult>{int(ignore)}</difficult>"]
        lines += [f"    <bndbox>{edges}</bndbox>", "  </object>"]
    return "\n".join([*lines, "</annotation>", ""])


def write_voc(root: Path, scenes: Sequence[Scene], layout: str) -> None:
    """Layouts: main, imagesets, devkit, paddle (lists); folders, roles (a folder for each split); flat (no splits)."""
    base = "VOCdevkit/Plant/" if layout == "devkit" else ""
    lists: dict[str, list[str]] = defaultdict(list)
    for scene in scenes:
        image, annotation = {
            "folders": (f"{scene.split}/", f"{scene.split}/"),
            "roles": (f"images/{scene.split}/", f"annotations/{scene.split}/"),
            "flat": ("", ""),
        }.get(layout, (f"{base}JPEGImages/", f"{base}Annotations/"))
        put(root, f"{image}{scene.stem}.jpg", jpeg(*scene.size))
        put(root, f"{annotation}{scene.stem}.xml", voc_xml(scene))
        paddle = f"{image}{scene.stem}.jpg {annotation}{scene.stem}.xml"
        lists[scene.split].append(paddle if layout == "paddle" else scene.stem)
    folder = {"main": "ImageSets/Main/", "devkit": f"{base}ImageSets/Main/", "imagesets": "ImageSets/", "paddle": ""}
    if layout in folder:
        for split, names in lists.items():
            put(root, f"{folder[layout]}{split}.txt", "".join(f"{name}\n" for name in names))


# COCO


def coco_json(scenes: Sequence[Scene], classes: Sequence[str]) -> str:
    images, annotations = [], []
    categories = {name: 3 * number + 1 for number, name in enumerate(classes)}
    for number, scene in enumerate(scenes):
        height, width = scene.size
        images.append({"id": number + 7, "file_name": f"{scene.stem}.jpg", "height": height, "width": width})
        for name, (x1, y1, x2, y2), ignore in scene.objects:
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(ignore), "area": (x2 - x1) * (y2 - y1)}
            place = {"id": len(annotations), "image_id": number + 7, "category_id": categories[name]}
            annotations.append(place | box)
    named = [{"id": id, "name": name} for name, id in categories.items()]
    return json.dumps({"images": images, "annotations": annotations, "categories": named}, indent=1)


def write_coco(root: Path, scenes: Sequence[Scene], layout: str, classes: Sequence[str] = CLASSES) -> None:
    """Layouts: official, custom, roboflow (a file for each split); fiftyone, cvat (one file)."""
    where = {
        "official": ("{}2017/", "annotations/instances_{}2017.json"),
        "custom": ("{}/", "annotations/custom_{}.json"),
        "roboflow": ("{}/", "{}/_annotations.coco.json"),
        "fiftyone": ("data/", "labels.json"),
        "cvat": ("images/", "annotations/instances_default.json"),
    }[layout]
    parts: dict[str, list[Scene]] = defaultdict(list)
    for scene in scenes:
        split = "valid" if (layout, scene.split) == ("roboflow", "val") else scene.split
        put(root, f"{where[0].format(split)}{scene.stem}.jpg", jpeg(*scene.size))
        parts[where[1].format(split)].append(scene)
    for path, members in parts.items():
        put(root, path, coco_json(members, classes))


# YOLO


def yolo_lines(scene: Scene, classes: Sequence[str]) -> str:
    height, width = scene.size
    lines = []
    for name, (x1, y1, x2, y2), _ in scene.objects:
        box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        lines.append(f"{classes.index(name)} {' '.join(f'{value:.9g}' for value in box)}\n")
    return "".join(lines)


def write_yolo(root: Path, scenes: Sequence[Scene], layout: str, classes: Sequence[str] = CLASSES) -> None:
    """Layouts: images (images/train), roboflow (train/images), lists (train.txt); classes_txt (no splits)."""
    lists: dict[str, list[str]] = defaultdict(list)
    for scene in scenes:
        folder = {"images": "{}/%s/", "roboflow": "%s/{}/"}.get(layout, "{}/")
        folder = (
            folder % ("valid" if (layout, scene.split) == ("roboflow", "val") else scene.split)
            if "%" in folder
            else folder
        )
        put(root, f"{folder.format('images')}{scene.stem}.jpg", jpeg(*scene.size))
        put(root, f"{folder.format('labels')}{scene.stem}.txt", yolo_lines(scene, classes))
        lists[scene.split].append(f"{folder.format('images')}{scene.stem}.jpg")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(classes))
    if layout == "classes_txt":
        put(root, "classes.txt", "".join(f"{name}\n" for name in classes))
    elif layout == "lists":
        for split, paths in lists.items():
            put(root, f"{split}.txt", "".join(f"./{path}\n" for path in paths))
        put(root, "data.yaml", f"train: train.txt\nval: val.txt\ntest: test.txt\nnames:\n{names}")
    elif layout == "roboflow":
        listed = json.dumps(list(classes), ensure_ascii=False)
        put(
            root,
            "data.yaml",
            "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n"
            f"nc: {len(classes)}\nnames: {listed}\n",
        )
    else:
        put(root, "data.yaml", f"path: .\ntrain: images/train\nval: images/val\ntest: images/test\nnames:\n{names}")


# Open Images

OPEN_IMAGES_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def write_openimages(root: Path, scenes: Sequence[Scene], layout: str, classes: Sequence[str] = CLASSES) -> None:
    """Layouts: official (a file of class names), sub (a column of class names), images (images/<split>)."""
    rows: dict[str, list[list[object]]] = defaultdict(list)
    mids = {name: f"/m/0{number}" for number, name in enumerate(classes)}
    for scene in scenes:
        split, (height, width) = OPEN_IMAGES_SPLITS[scene.split], scene.size
        put(root, f"{'images/' if layout == 'images' else ''}{split}/{scene.stem}.jpg", jpeg(height, width))
        for name, (x1, y1, x2, y2), ignore in scene.objects:
            edges = [f"{value:.9g}" for value in (x1 / width, x2 / width, y1 / height, y2 / height)]
            rows[split].append([scene.stem, "xclick", mids[name], 1, *edges, 0, 0, int(ignore), 0, 0, name])
    columns = (
        "ImageID Source LabelName Confidence XMin XMax YMin YMax IsOccluded IsTruncated IsGroupOf IsDepiction IsInside"
    )
    for split in OPEN_IMAGES_SPLITS.values():
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([*columns.split(), *(["ClassName"] if layout == "sub" else [])])
        writer.writerows(row if layout == "sub" else row[:-1] for row in rows[split])
        put(root, f"{'sub-' if layout == 'sub' else ''}{split}-annotations-bbox.csv", buffer.getvalue())
    if layout != "sub":
        put(root, "class-descriptions-boxable.csv", "".join(f"{mid},{name}\n" for name, mid in mids.items()))


WRITERS: Mapping[str, tuple[Callable[[Path, Sequence[Scene], str], None], tuple[str, ...]]] = {
    "voc": (write_voc, ("main", "imagesets", "devkit", "paddle", "folders", "roles", "flat")),
    "coco": (write_coco, ("official", "custom", "roboflow", "fiftyone", "cvat")),
    "yolo": (write_yolo, ("images", "roboflow", "lists", "classes_txt")),
    "openimages": (write_openimages, ("official", "sub", "images")),
}
LAYOUTS = [(kind, layout) for kind, (_, layouts) in WRITERS.items() for layout in layouts]
WITHOUT_SPLITS = ("flat", "fiftyone", "cvat", "classes_txt")


# What was read

Objects = list[tuple[str, tuple[float, ...], bool]]


def contents(splits: Splits) -> dict[tuple[str, str], Objects]:
    """Objects (class, xyxy in pixels, ignore) by split and name of the image without folder and suffix.

    They come from the file that `ssd inspect index=FILE` writes.
    """
    with TemporaryDirectory() as folder:
        write_index(splits, Path(folder, "index.jsonl"), roots=[])
        lines = [json.loads(line) for line in Path(folder, "index.jsonl").read_text().splitlines()]
    return {
        (line["split"], Path(line["path"]).stem): sorted(
            (name, tuple(round(edge, 2) for edge in box), ignore)
            for name, box, ignore in zip(line["labels"], line["boxes"], line["ignore"], strict=True)
        )
        for line in lines
    }


def expected(scenes: Sequence[Scene]) -> dict[tuple[str, str], Objects]:
    return {
        (scene.split, scene.stem): sorted((name, tuple(map(float, box)), flag) for name, box, flag in scene.objects)
        for scene in scenes
    }
