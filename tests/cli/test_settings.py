"""Settings that only the data, the augmentation or the end of a run can judge."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import albumentations
import pytest
from composed import compose
from forked import TINY, run
from hydra.utils import instantiate
from voc_files import CAT_BOX, add, add_list, object_xml, write_voc

from ssd.cli import check_run
from ssd.common.errors import ConfigError
from ssd.data.augmentation import Augmentation, SSDWindow

LBFGS = "optimizer._target_=torch.optim.LBFGS"
STOP = "pytorch_lightning.callbacks.EarlyStopping"
VOC = ["dataset=voc", "dataset.root=data", "image_size=96", "backbone.width_multiplier=0.1", "batch_size=2"]
VOC += ["num_workers=0", "epochs=2", "logger=null", "hydra.run.dir=run"]


def train(folder: Path, *settings: str) -> CompletedProcess[str]:
    return run(folder, "train.py", *settings)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective=val/typo", "objective=val/typo"),
        ("objective=val/map_5", "did you mean val/map_"),
        ("scheduler.milestones=[80,100]", "scheduler.milestones=[80, 100]"),
        ("scheduler.milestones=[0.8,0.5]", "scheduler.milestones=[0.8, 0.5]"),
        ("scheduler=null", "choose from cosine, multistep"),
        ("backbone=[vgg16]", "give one option"),
        ("backbone=3", "backbone=3: no such option"),
        ("optimizer.lr,x=3", "'optimizer.lr,x' cannot be the name of a setting"),
        ("+classes=a", "+ adds settings to groups"),
        ("resume=", "resume is empty"),
        ("dataset.root=''", "dataset.root is empty"),
        ("trainer.max_epochs=-1 trainer.max_time=00:00:00:04", "the schedule needs its length"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: nothing would be trained"),
        ("trainer.max_steps=0", "trainer.max_steps=0: nothing would be trained"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0: nothing would be trained"),
        ("trainer.max_time=00:00:00:00", "over before the first step"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0: must be above 0"),
        ("trainer.val_check_interval=1000", "trainer.val_check_interval=1000: ValueError"),
        ("+trainer.overfit_batches=2", "give trainer.limit_train_batches=2"),
        ("trainer.precision=bf16-true", "trainer.precision=bf16-true"),
        ("trainer.precision=64-true", "trainer.precision=64-true"),
        ("trainer.strategy=ddp_spawn", "trainer.strategy=ddp_spawn"),
        ("trainer.devices=0", "trainer: `Trainer(devices=0)`"),
        ("trainer.num_nodes=2", "with torchrun or srun"),
        (f"+callbacks.stop._target_={STOP} +callbacks.stop.monitor=val/no", "callbacks.stop.monitor=val/no"),
        ("module.freeze=bas", "module.freeze=bas"),
        ("optimizer.betas=[2,0.9]", "optimizer: Invalid beta parameter"),
        ("optimizer=sgd optimizer.nesterov=true optimizer.momentum=0", "optimizer: Nesterov momentum"),
        (f"{LBFGS} ~optimizer.betas ~optimizer.weight_decay", "optimizer.fused: no such setting"),
        ("image_size=32 batch_size=1", "give a larger batch_size"),
    ],
)
def test_a_setting_that_makes_no_sense_ends_with_2(tmp_path: Path, setting: str, message: str) -> None:
    multistep = ["scheduler=multistep"] if setting.startswith("scheduler.") else []
    done = train(tmp_path, *TINY, *multistep, *setting.split())
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("setting", ["logger=null", "trainer.limit_test_batches=0", "trainer.limit_val_batches=0"])
def test_parts_that_are_left_out(tmp_path: Path, setting: str) -> None:
    done = train(tmp_path, *TINY, setting)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("kind", ["negatives", "difficult"])
def test_a_val_split_without_objects_trains_and_keeps_the_last_weights(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "data"
    write_voc(root, {"train": ["a", "b", "c", "d"]})
    objects = [] if kind == "negatives" else [object_xml("cat", CAT_BOX, difficult="1")]
    for name in ("v", "w"):
        add(root, name, *objects)
    for split in ("val", "test"):
        add_list(root, split, ["v"] if split == "val" else ["w"])
    done = train(tmp_path, *VOC)
    assert done.returncode == 0, done.stderr
    assert "the val split has no object that counts" in done.stdout
    assert (tmp_path / "run" / "model.safetensors").is_file()
    evaluated = run(tmp_path, "evaluate", "checkpoint=run/model.safetensors", "dataset=voc", "dataset.root=data")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.dumps(json.loads((tmp_path / "evaluation" / "evaluation.json").read_text()))
    assert "NaN" not in metrics


def test_a_dataset_of_one_image_trains(tmp_path: Path) -> None:
    write_voc(tmp_path / "data", {"train": ["a"]})
    done = train(tmp_path, *VOC)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "transforms",
    [
        [SSDWindow.resize(96), albumentations.Normalize()],
        [SSDWindow.resize(96), albumentations.ToFloat()],
        [SSDWindow.resize(96), albumentations.RandomCrop(50, 50)],
        [albumentations.HorizontalFlip()],
        [albumentations.RandomCrop(5000, 5000)],
        [SSDWindow.resize(64)],
        [SSDWindow.resize(96), albumentations.ToTensorV2()],
    ],
    ids=["Normalize", "ToFloat", "RandomCrop", "no resize", "too large a crop", "another size", "ToTensorV2"],
)
def test_an_augmentation_must_give_images_of_the_network(
    transforms: list[albumentations.BasicTransform | SSDWindow],
) -> None:
    with pytest.raises(ConfigError, match=r"augmentation: it must give uint8 \[96, 96, 3\]"):
        check_run.check_augmentation(compose("image_size=96"), Augmentation(transforms))


@pytest.mark.parametrize("name", ["ssd", "light", "none"])
def test_our_augmentations_are_accepted(name: str) -> None:
    config = compose("image_size=96", f"augmentation={name}")
    check_run.check_augmentation(config, instantiate(config.augmentation, _convert_="all"))


def test_inspect_refuses_the_augmentation_that_training_refuses(tmp_path: Path) -> None:
    resize = "{_target_: albumentations.Resize, height: 64, width: 64}"
    settings = [*TINY[:5], f"augmentation.transforms=[{resize}]"]
    for command in ("train.py", "inspect"):
        done = run(tmp_path, command, *settings)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert "augmentation: it must give uint8 [96, 96, 3]" in done.stderr
