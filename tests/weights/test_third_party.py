"""Weights of other SSD programs give the same boxes and scores as there, or are refused with a reason.

torchvision's network, imported from its file, is compared with torchvision itself in test_ssd.py.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import third_party_reference as reference
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.models import detection

from ssd.common.errors import CheckpointError, ConfigError
from ssd.model.box_coder import decode
from ssd.weights import checkpoint, third_party

SHEETS = {
    "amdegroot": reference.AMDEGROOT,
    "qfgaohao vgg": reference.QFGAOHAO_VGG,
    "qfgaohao mb1": reference.QFGAOHAO_MB1,
    "lufficc": reference.LUFFICC,
    "lufficc 512": reference.LUFFICC_512,
}
NAMES = ["cat", "dog"]


def constant(sheet: reference.Sheet, *, outputs: int, value: float = 0.5) -> dict[str, Tensor]:
    """Weights that are views of one number, so that the file is small."""
    one = torch.tensor([value])
    return {
        key: one.expand(shape).clone() if shape else one[0] for key, shape in reference.shapes(sheet, outputs=outputs)
    }


def stored(content: Any, path: Path, **how: Any) -> Path:
    torch.save(content, path, **how)
    return path


def image(side: int) -> Tensor:
    return torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)


# Same numbers


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [*list(SHEETS)[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in ("lufficc", "lufficc 512"))]
)
def test_an_imported_network_gives_the_same_predictions(name: str, tmp_path: Path) -> None:
    sheet = SHEETS[name]
    weights = reference.random_weights(sheet, outputs=21)
    model = checkpoint.load(stored({"model": weights} if "lufficc" in name else weights, tmp_path / "a.pth"))
    images = image(512 if sheet.kind == "512" else 300)
    logits, offsets = reference.forward(sheet, weights, images)
    priors = torch.tensor(reference.prior_boxes(sheet.kind))

    ours = model(images)
    assert 0.1 < logits.std() < 10
    assert_close(ours.logits, logits, rtol=1e-4, atol=1e-4)
    assert_close(ours.offsets, offsets, rtol=1e-4, atol=1e-4)
    assert_close(model.priors, priors)
    assert_close(decode(ours.offsets, model.priors), reference.decode(offsets, priors), rtol=1e-4, atol=1e-4)
    assert model.class_names == third_party.VOC_NAMES


def test_lufficcs_layout_is_amdegroots_with_other_names() -> None:
    amdegroot, lufficc = reference.AMDEGROOT, reference.LUFFICC
    weights = reference.random_weights(amdegroot, outputs=21)
    keys = zip(weights, reference.shapes(lufficc, outputs=21), strict=True)
    renamed = {"model": {theirs: weights[key] for key, (theirs, _) in keys}, "iteration": 120000}
    first = third_party.convert(weights, source=Path("a.pth"))
    second = third_party.convert(renamed, source=Path("b.pth"))
    assert first.recipe == second.recipe
    assert all(torch.equal(value, second.state[key]) for key, value in first.state.items())


def test_a_network_for_coco_has_the_priors_of_coco(tmp_path: Path) -> None:
    for sheet in (reference.AMDEGROOT, reference.LUFFICC):
        model = checkpoint.load(stored(constant(sheet, outputs=81), tmp_path / "a.pth"))
        assert_close(model.priors, torch.tensor(reference.prior_boxes("300", sizes="300 coco")))
        assert (len(model.class_names), model.class_names[0], model.class_names[-1]) == (80, "person", "toothbrush")


def test_ssd512_has_its_own_levels(tmp_path: Path) -> None:
    model = checkpoint.load(stored(constant(reference.LUFFICC_512, outputs=21), tmp_path / "a.pth"))
    assert model.image_size == 512
    assert_close(model.priors, torch.tensor(reference.prior_boxes("512")))


def test_torchvisions_coco_network_keeps_its_numbers_and_names(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = detection.ssd300_vgg16(weights=None, weights_backbone=None).state_dict()
    state = {key: torch.zeros(value.shape) for key, value in state.items()}
    names = checkpoint.load(stored(state, tmp_path / "a.pth")).class_names
    theirs = detection.SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    assert [name.partition(" ")[0] if name.startswith("N/A") else name for name in names] == theirs[1:]
    assert len(set(names)) == 90


@torch.no_grad()
def test_weights_for_bgr_give_the_same_predictions_on_rgb(tmp_path: Path) -> None:
    weights = reference.random_weights(reference.QFGAOHAO_MB1, outputs=3)
    imported = third_party.convert(weights, source=tmp_path / "a.pth", class_names=NAMES, channel_order="bgr")
    model = checkpoint.build(imported.recipe).eval()
    checkpoint.load_strict(model, imported.state, name="a")
    images = image(300)
    logits, _ = reference.forward(reference.QFGAOHAO_MB1, weights, images.flip(1))
    assert_close(model(images).logits, logits, rtol=1e-4, atol=1e-4)


def test_mobilenet_of_another_side_has_the_priors_of_the_jetson_forks(tmp_path: Path) -> None:
    """Scales of 10%, then 20% to 88% in steps of 17%; cells of ceil(side / grid) pixels."""
    weights = constant(reference.QFGAOHAO_MB1, outputs=3)
    recipe = third_party.convert(weights, source=tmp_path / "a.pth", class_names=NAMES, image_size=512).recipe
    model = checkpoint.build(recipe)
    assert model.image_size == 512
    assert model.grids == ((32, 32), (16, 16), (8, 8), (4, 4), (2, 2), (1, 1))
    assert_close(model.priors[0], torch.tensor([8 / 512, 8 / 512, 0.1, 0.1]))
    assert_close(model.priors[32 * 32 * 6], torch.tensor([16 / 512, 16 / 512, 0.2, 0.2]))


# Files


@pytest.mark.parametrize("on_gpu", [False, True])
def test_files_of_old_torch_load(tmp_path: Path, on_gpu: bool) -> None:
    weights = constant(reference.QFGAOHAO_MB1, outputs=21)
    path = stored(weights, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    if on_gpu:  # as written on a machine with a GPU
        data = path.read_bytes().replace(b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n")
        path.write_bytes(data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert checkpoint.load(path).class_names[0] == "aeroplane"


def test_counters_and_the_prefix_of_data_parallel_do_not_matter(tmp_path: Path) -> None:
    weights = constant(reference.QFGAOHAO_MB1, outputs=21)
    wrapped = {f"module.{key}": value for key, value in weights.items() if "num_batches" not in key}
    assert checkpoint.load(stored(wrapped, tmp_path / "a.pth")).grids[0] == (19, 19)


def test_labels_beside_the_weights_name_the_classes(tmp_path: Path) -> None:
    path = stored(constant(reference.QFGAOHAO_MB1, outputs=3), tmp_path / "a.pth")
    (tmp_path / "labels.txt").write_text("BACKGROUND\ncat\n dog \n\n")
    assert checkpoint.load(path).class_names == ("cat", "dog")
    (tmp_path / "labels.txt").write_text("cat\ndog")
    assert checkpoint.load(path).class_names == ("cat", "dog")
    (tmp_path / "labels.txt").write_text("BACKGROUND\ncat\ndog\nbird\n")
    with pytest.raises(CheckpointError, match=r"2 classes, .*labels.txt has 3 names .*labels=FILE"):
        checkpoint.load(path)


def test_classes_without_names_are_numbered_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="ssd")
    path = stored(constant(reference.QFGAOHAO_MB1, outputs=4), tmp_path / "a.pth")
    assert checkpoint.load(path).class_names == ("class_1", "class_2", "class_3")
    assert "a.pth: warning: the file does not name its classes" in caplog.text


def test_the_report_has_format_classes_priors_pixels_and_tensors(tmp_path: Path) -> None:
    weights = constant(reference.AMDEGROOT, outputs=21) | {"priors": torch.zeros(8732, 4)}
    assert third_party.convert(weights, source=tmp_path / "a.pth").report == [
        "format: amdegroot/ssd.pytorch, PyTorch Advanced, 300x300 pixels",
        f"classes: 20 (PASCAL VOC): {', '.join(third_party.VOC_NAMES)}",
        "priors: squares of 30, 60, 111, 162, 213, 264, 315 px; clip all",
        "pixels: RGB; mean [123.0, 117.0, 104.0], std [1.0, 1.0, 1.0]",
        "tensors: 71 used; unused: priors",
    ]


# Refusals


@pytest.mark.parametrize("name", SHEETS)
def test_keys_that_do_not_fit_the_layout_are_listed(name: str, tmp_path: Path) -> None:
    sheet = SHEETS[name]
    whole = constant(sheet, outputs=21)
    gone, wide = sheet.extra(0, 0) + ".weight", sheet.boxes + ".1.bias"
    changed = {key: value for key, value in whole.items() if key != gone}
    changed |= {wide: torch.zeros(25), "surplus.weight": torch.zeros(3)}
    path = stored(changed, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert f"1 missing: {gone};" in message
    assert "1 unknown: surplus.weight;" in message
    assert f"1 of another shape: {wide} is (25,), not (24,)" in message
    for key in (f"{sheet.classes}.0.weight", f"{sheet.classes}.0.bias"):
        with pytest.raises(CheckpointError, match=f"1 missing: {key}"):
            third_party.convert({other: whole[other] for other in whole if other != key}, source=path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = stored(constant(reference.QFGAOHAO_MB1, outputs=21, value=float("nan")), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="NaN"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base_net.0.0.weight": torch.zeros(32, 3, 3, 3), "base_net.1.conv.0.weight": torch.zeros(3)}, "no known"),
        ({"model": {"a": 1}}, "not a table of tensors"),
        ({}, "not a table of tensors"),
        ([torch.zeros(3)], "not a table of tensors"),
        (torch.zeros(3), "not a table of tensors"),
    ],
)
def test_other_networks_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(stored(content, tmp_path / "a.pth"))


@pytest.mark.parametrize("prefix", ["", "vgg."])
def test_a_base_net_alone_does_not_predict(prefix: str, tmp_path: Path) -> None:
    base = {
        prefix + key.removeprefix("vgg."): value
        for key, value in constant(reference.AMDEGROOT, outputs=21).items()
        if key.startswith("vgg.")
    }
    with pytest.raises(third_party.BaseNetOnly, match=r"base net of vgg16 without a detector; .*backbone.weights="):
        checkpoint.load(stored(base, tmp_path / "vgg16_reducedfc.pth"))


def test_code_in_a_weight_file_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(canary),)

    weights = constant(reference.QFGAOHAO_MB1, outputs=21) | {"surplus": Payload()}
    stored(weights, tmp_path / "zip.pth")
    stored(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    (tmp_path / "page.pth").write_text("<html>404</html>")
    for name in ("zip.pth", "old.pth", "plain.pth", "page.pth"):
        with pytest.raises(CheckpointError, match=r"refused|damaged"):
            checkpoint.load(tmp_path / name)
    assert not canary.exists()


def test_a_small_file_does_not_claim_a_huge_network(tmp_path: Path) -> None:
    weights = constant(reference.AMDEGROOT, outputs=21)
    weights["conf.0.weight"] = torch.zeros(1).expand(10**12, 512, 3, 3)
    with pytest.raises(CheckpointError, match="classes; the limit is 2000"):
        third_party.convert(weights, source=tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="repeats its elements"):
        checkpoint.load(stored(weights, tmp_path / "a.pth"))


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights, source = constant(reference.AMDEGROOT, outputs=3), tmp_path / "a.pth"
    with pytest.raises(ConfigError, match="image_size=512: amdegroot"):
        third_party.convert(weights, source=source, image_size=512)
    with pytest.raises(ConfigError, match="give one of the two"):
        third_party.convert(weights, source=source, class_names=NAMES, labels="labels.txt")
    with pytest.raises(CheckpointError, match=r"labels\.txt: no such list of class names"):
        third_party.convert(weights, source=source, labels=str(tmp_path / "labels.txt"))
    with pytest.raises(CheckpointError, match=r"2 names \(1 different\)"):
        third_party.convert(weights, source=source, class_names=["cat", "cat"])
