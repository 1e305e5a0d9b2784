"""Data sets that do harm, or mean to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dataset_folders import put
from forked import TINY
from voc_files import add, add_list, object_xml, write_image, write_voc

from hostile_inputs.harness import HostileCase

NAMES = ["a", "b", "c", "d"]
SPLITS = {"train": NAMES[:2], "val": NAMES[2:3], "test": NAMES[3:]}
INSPECT = ["inspect", "dataset.root=data"]
ESCAPE = "\x1b]0;owned\x07\x1b[2J"
DEEP = 100_000
Make = Callable[[Path], None]


def inspect(make: Make, *settings: str) -> Callable[[Path], list[str]]:
    """Makes the folder `data`, and inspects it."""

    def prepare(folder: Path) -> list[str]:
        make(folder / "data")
        return [*INSPECT, *settings]

    return prepare


def train(make: Make, *settings: str) -> Callable[[Path], list[str]]:
    """Makes the folder `data`, and trains on it for a step."""

    def prepare(folder: Path) -> list[str]:
        make(folder / "data")
        tiny = [item for item in TINY if not item.startswith("dataset.")]
        return ["train.py", "dataset.root=data", *tiny, "trainer.max_steps=1", "logger=null", *settings]

    return prepare


# --- VOC ----------------------------------------------------------------------------------------------------------


def voc(root: Path) -> None:
    write_voc(root, SPLITS)


def voc_with(path: str, content: str | bytes) -> Make:
    """A sound folder in which one file has other content."""

    def make(root: Path) -> None:
        voc(root)
        put(root, path, content)

    return make


def xml(text: str | bytes) -> Make:
    return voc_with("Annotations/a.xml", text)


def objects(*items: str, size: str = "<size><width>50</width><height>40</height></size>") -> str:
    return f"<annotation>{size}{''.join(items)}</annotation>"


def replaced(path: str, by: Callable[[Path], object]) -> Make:
    """A sound folder in which something else is in the place of a file."""

    def make(root: Path) -> None:
        voc(root)
        (root / path).unlink()
        by(root / path)

    return make


def _linked_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _linked_cache(root: Path) -> None:
    voc(root)
    (root / ".ssd_cache").symlink_to("../../outside/dataset")
    for number in range(12):  # more than the cache keeps
        (root.parent.parent / "outside/dataset" / f"{number}.safetensors").write_text("mine")


def _foreign_files_in_cache(root: Path) -> None:
    voc(root)
    (root / ".ssd_cache").mkdir()
    outside = root.parent.parent / "outside/dataset"
    for number in range(12):
        (root / ".ssd_cache" / f"{number:016x}.safetensors").symlink_to(outside / "a.jpg")


def _link_around(root: Path) -> None:
    voc(root)
    (root / "JPEGImages" / "all").symlink_to("/")


def _unreadable_folder(root: Path) -> None:
    voc(root)
    (root / "JPEGImages" / "more").mkdir()
    (root / "JPEGImages" / "more").chmod(0)


def _named(name: str | bytes) -> Make:
    def make(root: Path) -> None:
        voc(root)
        text = os.fsdecode(name)
        (root / "Annotations" / f"{text}.xml").write_text("<annotation>not closed")
        write_image(root / "JPEGImages" / f"{text}.jpg")
        if "\n" in text:  # the images are drawn at random then
            shutil.rmtree(root / "ImageSets")
        else:
            (root / "ImageSets" / "Main" / "train.txt").write_bytes(os.fsencode(f"{text}\na\n"))

    return make


def _many_classes(root: Path) -> None:
    voc(root)
    for number in range(2_000):
        add(root, f"m{number}", *[object_xml(f"class {number} {item}") for item in range(10)])
    add_list(root, "train", ["a", *(f"m{number}" for number in range(2_000))])


VOC = {
    "a FIFO in the place of an annotation": replaced("Annotations/a.xml", os.mkfifo),
    "a link to /dev/zero in the place of an annotation": replaced("Annotations/a.xml", _linked_to("/dev/zero")),
    "a broken link in the place of an annotation": replaced("Annotations/a.xml", _linked_to("nowhere")),
    "a link to itself in the place of an annotation": replaced("Annotations/a.xml", _linked_to("a.xml")),
    "an annotation of a terabyte": replaced("Annotations/a.xml", _large),
    "XML with an entity that expands": xml(
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>'
    ),
    "XML with an external entity": xml(
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
    ),
    "XML with an external DTD": xml('<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd"><annotation/>'),
    "XML nested 100,000 levels deep": xml("<annotation>" + "<a>" * DEEP + "</a>" * DEEP + "</annotation>"),
    "XML of an unknown encoding": xml(b'<?xml version="1.0" encoding="no-such-code"?><annotation/>'),
    "XML of an encoding that is no text": xml(b'<?xml version="1.0" encoding="base64"?><annotation/>'),
    "XML that ends in the middle": xml("<annotation><object><name>cat"),
    "XML of zero bytes": xml(b""),
    "XML of NUL bytes": xml(bytes(1000)),
    "XML with 8,000 objects without box": xml(objects("<object><name>cat</name></object>" * 8000)),
    "XML with 8,000 empty boxes": xml(objects("<object><name>cat</name><bndbox/></object>" * 8000)),
    "XML with a number of a million digits": xml(objects(object_xml(box=(1, 1, "9" * 1_000_000, 5)))),
    "XML with infinite edges": xml(objects(object_xml(box=(1, 1, "inf", 5)))),
    "XML with edges of 1e308": xml(objects(object_xml(box=("-1e308", 1, "1e308", 5)))),
    "XML with a class name of control characters": xml(objects(object_xml("a&#27;"))),
    "a list with a path out of the folder": voc_with("ImageSets/Main/train.txt", "../../outside/dataset/a\n"),
    "a list with an absolute path": voc_with("ImageSets/Main/train.txt", "/etc/passwd\n"),
    "a list with NUL bytes": voc_with("ImageSets/Main/train.txt", "a\0b\n"),
    "a list with shell characters": voc_with("ImageSets/Main/train.txt", "$(touch owned) `touch owned`; touch owned\n"),
    "a FIFO in the place of a list": replaced("ImageSets/Main/train.txt", os.mkfifo),
    "an annotation whose name has control characters": _named(ESCAPE),
    "an annotation whose name has a line feed": _named("a\nerror: all is well"),
    "an annotation whose name is no UTF-8": _named(b"\xff\xfe"),
    "an annotation whose name reverses text": _named("a\u202egpj"),
    "a link to the root of the disk": _link_around,
    "XML whose file name leads out of the folder": xml(
        f"<annotation><filename>../../outside/dataset/a.jpg</filename>{object_xml(box=(5, 5, 1, 'x'))}</annotation>"
    ),
}

# --- COCO ---------------------------------------------------------------------------------------------------------

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 50, "height": 40}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}
CATEGORY = {"id": 1, "name": "cat"}


def coco(text: str | bytes) -> Make:
    def make(root: Path) -> None:
        write_image(root / "train" / "a.jpg")
        put(root, "annotations/instances_train.json", text)

    return make


def coco_of(images: object = (IMAGE,), annotations: object = (BOX,), categories: object = (CATEGORY,)) -> Make:
    return coco(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _coco_link(root: Path) -> None:
    coco_of()(root)
    (root / "train" / "a.jpg").unlink()
    os.mkfifo(root / "train" / "a.jpg")


def _million_classes(root: Path) -> None:
    coco_of(categories=[{"id": number, "name": str(number)} for number in range(1, 1_000_001)])(root)


COCO = {
    "JSON nested 100,000 levels deep": coco('{"images": ' + "[" * DEEP + "]" * DEEP + ', "annotations": []}'),
    "JSON with a key twice": coco('{"images": [], "images": [], "annotations": [], "categories": []}'),
    "JSON with a number of 10,000 digits": coco(f'{{"images": [{"9" * 10_000}], "annotations": [], "categories": []}}'),
    "JSON with NaN": coco_of(annotations=[BOX | {"bbox": [float("nan"), 1, 2, 3]}]),
    "JSON with Infinity": coco_of(annotations=[BOX | {"bbox": [1, 1, float("inf"), 3]}]),
    "a file name that leads out of the folder": coco_of(images=[IMAGE | {"file_name": "../../outside/dataset/a.jpg"}]),
    "an absolute file name": coco_of(images=[IMAGE | {"file_name": "/etc/passwd"}]),
    "a Windows path": coco_of(images=[IMAGE | {"file_name": "..\\..\\outside\\dataset\\a.jpg"}]),
    "a file name with NUL": coco_of(images=[IMAGE | {"file_name": "a\0.jpg"}]),
    "a file name that is an address": coco_of(images=[IMAGE | {"file_name": "http://192.0.2.1/a.jpg"}]),
    "a file name of 100,000 characters": coco_of(images=[IMAGE | {"file_name": "a" * 100_000 + ".jpg"}]),
    "a class name that is a lone surrogate": coco_of(categories=[{"id": 1, "name": "\ud800"}]),
    "a class name that is a list": coco_of(categories=[{"id": 1, "name": ["cat"]}]),
    "a class name of a million characters": coco_of(categories=[{"id": 1, "name": "c" * 1_000_000}]),
    "a FIFO in the place of an image": _coco_link,
    "a million classes": _million_classes,
    "images that are a number": coco_of(images=7),
    "an annotation of an unknown image": coco_of(annotations=[BOX | {"image_id": "\x1b[2J"}]),
    "JSON of zero bytes": coco(b""),
    "JSON in UTF-16 without a mark": coco('{"images": []}'.encode("utf-16-le")),
}

# --- YOLO ---------------------------------------------------------------------------------------------------------


def yolo(*, data_yaml: str | None = None, labels: str = "0 0.5 0.5 0.2 0.2\n", names: str = "names: [cat]\n") -> Make:
    def make(root: Path) -> None:
        for split in ("train", "val"):
            write_image(root / "images" / split / f"{split}.jpg")
            put(root, f"labels/{split}/{split}.txt", labels)
        put(root, "data.yaml", f"train: images/train\nval: images/val\n{names}" if data_yaml is None else data_yaml)

    return make


def _fifo_as_data_yaml(root: Path) -> None:
    yolo()(root)
    (root / "data.yaml").unlink()
    os.mkfifo(root / "data.yaml")


def _aliases(levels: int = 9) -> str:
    lines = ["names: &a0 [x,x,x,x,x,x,x,x,x]"]
    lines += [f"k{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines)


YOLO = {
    "a FIFO in the place of data.yaml": _fifo_as_data_yaml,
    "data.yaml nested 100,000 levels deep": yolo(data_yaml="names: " + "[" * DEEP + "]" * DEEP),
    "data.yaml whose aliases multiply": yolo(data_yaml=_aliases()),
    "data.yaml with an object of Python": yolo(data_yaml="names: !!python/object/apply:os.system [touch owned]"),
    "data.yaml with a key twice": yolo(data_yaml="names: [cat]\nnames: [dog]\n"),
    "data.yaml that contains itself": yolo(data_yaml="names: &a [*a]\n"),
    "data.yaml with an absolute path": yolo(data_yaml="train: /etc\nval: /etc\nnames: [cat]\n"),
    "data.yaml with a path out of the folder": yolo(
        data_yaml="path: ../../outside\ntrain: dataset\nval: dataset\nnames: [cat]\n"
    ),
    "data.yaml with addresses": yolo(
        data_yaml="train: http://192.0.2.1/train.zip\nval: http://192.0.2.1/val.zip\nnames: [cat]\n"
    ),
    "data.yaml with a number of classes of 10^12": yolo(
        data_yaml="train: images/train\nval: images/val\nnc: 1" + "0" * 12
    ),
    "labels of a class of 10^18": yolo(labels=f"{10**18} 0.5 0.5 0.2 0.2\n"),
    "labels that are not numbers": yolo(labels="0 nan 0.5 0.2 0.2\n"),
    "labels with an infinite size": yolo(labels="0 0.5 0.5 inf 0.2\n"),
    "labels with a line of 10 MB": yolo(labels="0 " + "0.5 " * 2_500_000),
    "labels of NUL bytes": yolo(labels="\0" * 1000),
}

# --- Open Images --------------------------------------------------------------------------------------------------

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"


def row(id: str = "a", name: str = "/m/01g317", edges: str = "0.1,0.5,0.1,0.5") -> str:
    return f"{id},xclick,{name},1,{edges},0,0,0,0,0"


def openimages(*rows: str, header: str = HEADER, classes: str | bytes = "/m/01g317,Person\n") -> Make:
    def make(root: Path) -> None:
        for split in ("train", "validation", "test"):
            write_image(root / split / "a.jpg")
            name = f"{split}-annotations-bbox.csv" if split != "train" else "oidv6-train-annotations-bbox.csv"
            put(root, name, "\n".join([header, *(rows if split == "train" else (row(),))]) + "\n")
        put(root, "class-descriptions-boxable.csv", classes)

    return make


def _hierarchy(root: Path) -> None:
    openimages(row())(root)
    put(root, "bbox_labels_600_hierarchy.json", '{"LabelName":"x","Subcategory":[' * DEEP + "]}" * DEEP)


OPENIMAGES = {
    "an ImageID that leads out of the folder": openimages(row("../../../outside/dataset/a")),
    "an ImageID that is an absolute path": openimages(row("/etc/passwd")),
    "an ImageID with NUL": openimages(row("a\0b")),
    "a table with infinite edges": openimages(row(edges="0.1,inf,0.1,0.5")),
    "a table with edges that are text": openimages(row(edges="0.1,=1+1,0.1,0.5")),
    "a table with a line of 20 MB": openimages("a" * 20_000_000),
    "a table with 100,000 columns": openimages("," * 100_000, header=HEADER + ",x" * 100_000),
    "a table with an open quote": openimages('"a,xclick,/m/01g317', *[row()] * 10),
    "a table with a column twice": openimages(row() + ",1", header=HEADER + ",XMin"),
    "a table of NUL bytes": openimages("\0" * 100_000),
    "a class file that is no UTF-8": openimages(row(), classes=b"/m/01g317,\xff\xfe\n"),
    "a hierarchy nested 100,000 levels deep": _hierarchy,
}


EXPAND = ["dataset.expand_hierarchy=true"]
HARMLESS = ("XML with an external DTD", "a class file that is no UTF-8")  # nothing is fetched, and Latin-1 is read


def _cases() -> list[HostileCase]:
    made = [("voc", VOC), ("coco", COCO), ("yolo", YOLO), ("openimages", OPENIMAGES)]
    settings = {"openimages": ("dataset.classes=null",)}
    return [
        HostileCase(
            f"{kind}: {name}",
            inspect(make, f"dataset={kind}", *settings.get(kind, ()), *EXPAND * ("hierarchy" in name)),
            codes=(0,) if name in HARMLESS else (3,),
        )
        for kind, makers in made
        for name, make in makers.items()
    ]


CASES = [
    *_cases(),
    HostileCase("a cache that is a link to another folder", train(_linked_cache), codes=(0, 3)),
    HostileCase("links to foreign files in the cache", train(_foreign_files_in_cache), codes=(0,)),
    HostileCase("20,000 classes", inspect(_many_classes, "dataset=voc")),
]
