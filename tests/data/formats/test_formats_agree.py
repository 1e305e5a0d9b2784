"""A public dataset, written in the other formats, gives the same index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_folders import Scene, contents, write_coco, write_openimages, write_yolo

from ssd.data.formats.coco import read_coco
from ssd.data.formats.openimages import read_openimages
from ssd.data.formats.voc import read_voc
from ssd.data.formats.yolo import read_yolo
from ssd.data.splits import Splits

BCCD = Path(__file__).parents[4] / "shared" / "data" / "voc" / "bccd"


@pytest.fixture(scope="module")
def bccd() -> Splits:
    return read_voc(str(BCCD))


@pytest.mark.skipif(not BCCD.is_dir(), reason=f"no {BCCD}")
@pytest.mark.parametrize(
    ("write", "read", "layout"),
    [
        (write_yolo, read_yolo, "images"),
        (write_coco, read_coco, "official"),
        (write_openimages, read_openimages, "official"),
    ],
)
def test_bccd_in_another_format(
    write: Callable[..., None], read: Callable[..., Splits], layout: str, bccd: Splits, tmp_path: Path
) -> None:
    splits = bccd
    sizes = {
        (name, Path(path).stem): tuple(size.tolist())
        for name, index in splits.items()
        for path, size in zip(index.paths, index.sizes, strict=True)
    }
    scenes = [
        Scene(split, stem, sizes[split, stem], tuple(objects)) for (split, stem), objects in contents(splits).items()
    ]
    write(tmp_path, scenes, layout, splits.class_names)
    other = read(str(tmp_path))
    assert other.class_names == splits.class_names
    assert contents(other) == contents(splits)
    for (_, index), (_, same) in zip(splits.items(), other.items(), strict=True):
        assert {Path(path).stem for path in index.paths} == {Path(path).stem for path in same.paths}
        assert len(index.boxes) == len(same.boxes) > 0
