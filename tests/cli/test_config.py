"""Every pair of choices composes and builds; wrong names, types and ranges fail at once with one line."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from composed import CONF, compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ssd.cli import app, build
from ssd.cli.app import COMMANDS, free_folder
from ssd.cli.config import check
from ssd.cli.explain import explain
from ssd.cli.keys import KEYS
from ssd.cli.overrides import check_form, quoted, texts, with_quickstart, without_null
from ssd.common.errors import ConfigError
from ssd.inference.tiles import MIN_TILE

GROUPS = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("backbone", "dataset", "augmentation", "optimizer", "scheduler", "loss", "trainer")
}
PAIRS = {
    frozenset({(first, a), (second, b)})
    for first, second in itertools.combinations(GROUPS, 2)
    for a, b in itertools.product(GROUPS[first], GROUPS[second])
}


def pairs_of(choice: dict[str, str]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in itertools.combinations(choice.items(), 2)}


def covering_choices() -> list[dict[str, str]]:
    """Options of all groups at once, 26 times, which have every one of the 199 pairs."""
    choices, missing = [], set(PAIRS)
    while missing:
        choice = dict(min(map(sorted, missing)))
        for group in GROUPS:
            if group not in choice:
                choice[group] = max(
                    GROUPS[group], key=lambda option: len(pairs_of({**choice, group: option}) & missing)
                )
        missing -= pairs_of(choice)
        choices.append(choice)
    return choices


CHOICES = covering_choices()


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    GlobalHydra.instance().clear()


def test_the_choices_have_every_pair() -> None:
    assert set().union(*map(pairs_of, CHOICES)) == PAIRS


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "+".join(choice.values()))
def test_every_pair_composes(choice: dict[str, str]) -> None:
    config = compose(*(f"{group}={option}" for group, option in choice.items()))
    check(config)
    OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("backbone", GROUPS["backbone"])
def test_every_backbone_builds_at_its_size(backbone: str) -> None:
    config = compose(f"backbone={backbone}")
    build.fill_auto(config)
    model = build.build_model(config, ("a", "b"))
    assert len(model.priors) == sum(
        rows * columns * count for (rows, columns), count in zip(model.grids, model.prior_spec.per_cell, strict=True)
    )


@pytest.mark.parametrize("group", ["augmentation", "loss", "postprocess"])
def test_parts_are_built_from_their_files(group: str) -> None:
    for option in (path.stem for path in (CONF / group).glob("*.yaml")):
        config = compose(f"{group}={option}", "image_size=96")
        assert callable(instantiate(config[group], _convert_="all"))


def error_line(*overrides: str, name: str = "train") -> tuple[int, str]:
    try:
        check(compose(*overrides, name=name), command=name, texts=texts(list(overrides)))
    except Exception as error:
        GlobalHydra.instance().clear()
        code, line = explain(error, config_name=name, arguments=list(overrides))
        assert line is not None
        assert "\n" not in line
        return code, line
    raise AssertionError(f"{overrides} was accepted")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=abc", "optimizer.lr"),
        ("optimizer.lr=0", "optimizer.lr=0.0: must be above 0"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: must be above 0"),
        ("batch_size=0", "batch_size=0: must be at least 1"),
        ("batch_size=2.5", "batch_size"),
        ("epochs=0", "epochs=0"),
        ("loss.match_threshold=1.5", "loss.match_threshold=1.5: must be above 0, at most 1"),
        ("module.freeze=heads", "module.freeze=heads: must be 'nothing', 'base' or 'all_but_heads'"),
        ("trainer.precision=half", "trainer.precision=half"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5"),
        ("priors.scales=abc", "priors.scales=abc: must be a list in brackets"),
        ("+optimizer.beta=1", "optimizer.beta: no such setting of torch.optim.AdamW; did you mean optimizer.betas?"),
        ("+optimiser=adamw", "optimiser: no such setting; did you mean optimizer?"),
        ("augmentation.transforms.0.flip_probability=x", "augmentation.transforms.0.flip_probability=x"),
        ("callbacks.ema.decay=x", "callbacks.ema.decay=x"),
        ("postprocess.candidates=50", "postprocess.candidates: now called postprocess.topk_candidates"),
        ("loss.iou_threshold=0.4", "loss.match_threshold"),
        ("callbacks.watch.pictures=4", "callbacks.visualizer.images"),
        ("dataset.root=DIR", " or dataset=voc"),
        ("postprocess.score_threshold=2", "postprocess.score_threshold"),
        ("scheduler.warmup=1", "scheduler.warmup"),
        ("num_workers=-1", "num_workers=-1"),
        ("optimizer.lrr=1", "did you mean optimizer.lr?"),
        ("imagesize=300", "did you mean image_size?"),
        ("backbon=vgg16", "did you mean backbone?"),
        ("trainer.max_epoch=3", "did you mean trainer.max_epochs?"),
        ("backbone=vgg17", "did you mean vgg16?"),
        ("+classes=a,b", "classes=a,b: a list goes into brackets: +classes=[a,b]"),
        ("backbone=resnet", "there are mobilenet_v1, mobilenet_v1_half, "),
    ],
)
def test_a_wrong_setting_gets_one_line_and_exit_code_2(override: str, expected: str) -> None:
    code, line = error_line(override)
    assert (code, expected in line) == (2, True), line


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize("value", ["31", "0", "-640", "640.5", "big", "[640,640]"])
def test_a_tile_is_a_whole_number_of_pixels(name: str, value: str) -> None:
    needed = ["checkpoint=a", "source=b"][: 2 if name == "predict" else 1]
    code, line = error_line(*needed, f"tile={value}", name=name)
    assert (code, line.startswith(f"tile={value}".replace(",", ", "))) == (2, True), line
    assert (KEYS["tile"].low, compose(*needed, name=name).tile) == (MIN_TILE, None)


def test_an_unknown_option_is_named_before_the_keys_of_other_options() -> None:
    code, line = error_line("dataset=voc", "dataset.root=DIR", "callbacks=none")
    assert (code, "callbacks=none: no such option" in line) == (2, True), line


def test_a_missing_mandatory_value_is_named() -> None:
    assert error_line("source=x", name="predict") == (2, "checkpoint is missing: give checkpoint=...")


def test_a_yaml_error_names_file_and_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: 1\nb: [1,\n")
    try:
        OmegaConf.load(broken)
    except Exception as error:
        code, line = explain(error, config_name="train")
    assert code == 2
    assert line is not None
    assert line.startswith(f"{broken}:3:")


def test_priors_of_another_number_of_levels_are_refused() -> None:
    config = compose("backbone=vgg16", "priors.scales=[0.1,0.2]", "priors.aspect_ratios=[[2]]", "priors.steps_px={}")
    build.fill_auto(config)
    with pytest.raises(ConfigError, match="1 levels of priors, 6 feature maps"):
        build.check_fit(config)


def test_priors_come_from_a_file(tmp_path: Path) -> None:
    Path("mine.yaml").write_text("scales: [0.05, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05]\n")
    config = compose("priors.file=mine.yaml", "priors.clip=all")
    build.fill_auto(config)
    priors = build.build_priors(config)
    assert (priors.scales[0], priors.clip, priors.steps_px[300][0]) == (0.05, "all", 16)
    Path("other.yaml").write_text("lr: 3\n")
    for path, problem in (("other.yaml", "other.yaml: its keys"), ("none.yaml", "none.yaml: cannot be read")):
        with pytest.raises(ConfigError, match=problem):
            build.fill_auto(compose(f"priors.file={path}"))


def test_text_that_looks_like_a_number_stays_as_typed() -> None:
    overrides = ["checkpoint=12", "source=0", "output=2025_11_25", "classes=[001,2e3]"]
    config = compose(*overrides, name="predict")
    check(config, command="predict", texts=texts(overrides))
    assert [config.checkpoint, config.source, config.output] == ["12", "0", "2025_11_25"]
    assert list(config.classes) == ["001", "2e3"]


def test_whole_numbers_and_text_become_what_is_expected() -> None:
    config = compose("optimizer.lr=1", "batch_size='4'", "save_every_minutes=5", "trainer.precision=auto")
    check(config)
    assert [config.optimizer.lr, config.batch_size, config.save_every_minutes] == [1.0, 4, 5.0]
    assert isinstance(config.optimizer.lr, float)


def test_without_a_dataset_the_quickstart_runs() -> None:
    assert with_quickstart(["epochs=1"]) == ["epochs=1", "experiment=quickstart"]
    for given in ("dataset=voc", "experiment=voc07", "dataset@dataset=voc"):
        assert with_quickstart([given]) == [given]


def test_every_bound_is_of_a_setting_that_exists() -> None:
    """A renamed setting must not lose its bounds in silence."""
    options = ["dataset=voc", "dataset=openimages", "dataset=coco", "optimizer=sgd", "scheduler=multistep"]
    configs = [compose(), *map(compose, options), *(compose(name=command.replace("-", "_")) for command in COMMANDS)]
    settings = {key for config in configs for key in keys_of(OmegaConf.to_container(config))}
    assert [key for key in KEYS if key.rpartition(":")[2] not in settings] == []


def keys_of(node: object, prefix: str = "") -> Iterator[str]:
    for key, child in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from keys_of(child, f"{prefix}{key}.")


def commands_in_the_readme() -> list[tuple[str, ...]]:
    """(configuration, overrides ...) of everything in backticks that sets something."""
    found = set()
    for span in re.findall(r"`([^`\n]+)`", (CONF.parent / "README.md").read_text()):
        settings = (
            [word for word in span.split() if re.fullmatch(r"[a-z0-9_.]+=\S+", word)]
            if "completion" not in span
            else []
        )
        command = re.search(r"\bssd ([a-z-]+)", span)
        name = command[1] if command else "predict" if "predict.py" in span else "train"
        if settings:
            found.add(
                (name.replace("-", "_"), *(each_of_a_sweep(word) if " -m " in span else word for word in settings))
            )
    return sorted(found)


def each_of_a_sweep(setting: str) -> str:
    return setting.partition(",")[0]


@pytest.mark.parametrize("command", commands_in_the_readme(), ids=" ".join)
def test_every_setting_in_the_readme_composes(command: tuple[str, ...]) -> None:
    name, *overrides = command
    needs_root = any(word.startswith("dataset.") for word in overrides)
    data = (
        ["dataset=voc"]
        if needs_root and not any(word.startswith(("dataset=", "experiment=")) for word in overrides)
        else []
    )
    config = compose(*data, *overrides, name=name)
    for key in ("checkpoint", "source", "output"):  # what a row leaves out
        if OmegaConf.is_missing(config, key):
            config[key] = "FILE"
    check(config, command=name)


def test_the_average_can_be_left_out_and_its_decay_is_checked() -> None:
    assert "ema" not in compose("~callbacks.ema").callbacks
    assert error_line("callbacks.ema.decay=1.5") == (2, "callbacks.ema.decay=1.5: must be at least 0, at most 1")


def test_priors_and_size_follow_the_backbone() -> None:
    found = {}
    for overrides in (
        ("backbone=vgg16",),
        ("backbone=vgg16_512",),
        ("backbone=vgg16", "priors=vgg16_coco", "image_size=320"),
    ):
        config = compose(*overrides)
        build.fill_auto(config)
        found[overrides[-1]] = (
            config.image_size,
            config.priors.scales[0],
            config.augmentation.transforms[0].image_size,
        )
    assert found == {
        "backbone=vgg16": (300, 0.1, 300),
        "backbone=vgg16_512": (512, 0.07, 512),
        "image_size=320": (320, 0.07, 320),
    }


def test_runs_of_the_same_second_get_different_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_folder("runs/now")
    assert free_folder("runs/now") == first == "runs/now"  # asked again in one process
    monkeypatch.setattr(app, "_folders", {})  # another process
    assert free_folder("runs/now") == "runs/now_2"


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_and_its_header_says_what_to_expect(path: Path) -> None:
    config = compose(f"experiment={path.stem}")
    check(config)
    header = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert all(word in header for word in ("command", "hardware", "duration", "expected"))
    assert "@@" not in header


def test_a_ring_of_causes_is_walked_once() -> None:
    first, second = OSError(28, "No space left on device", "here"), RuntimeError("first")
    first.__context__, second.__context__ = second, first
    assert explain(second, config_name="train") == (5, "here: the disk is full; free some space")


@pytest.mark.parametrize("place", ["/proc/none/of/this", f"{__file__}/below", "/" + "x" * 300])
def test_a_place_that_cannot_be_used_is_the_machines(place: str) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011  each has another errno
        Path(place).mkdir(parents=True)
    code, line = explain(caught.value, config_name="train")
    assert code == 5
    assert line is not None
    assert caught.value.filename in line


def test_nobody_reads_the_output_any_more() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(CONF.parent / "train.py"), "--cfg", "job"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("source=https://a.b/c.jpg?x=1&y=2", "https://a.b/c.jpg?x=1&y=2"),
        ("source=사진/고양이 (1).jpg", "사진/고양이 (1).jpg"),
        ("source=it's[1].jpg", "it's[1].jpg"),
        ("source=~/a.jpg", "~/a.jpg"),
        ("classes=[사람,자동차]", ["사람", "자동차"]),
        ("classes=[traffic light,car]", ["traffic light", "car"]),
        ("source='a b'", "a b"),
        ("batch_size=4", 4),
    ],
)
def test_what_hydra_cannot_read_is_taken_as_text(argument: str, value: object) -> None:
    assert OverridesParser.create().parse_override(quoted(argument)).value() == value


def test_what_hydra_can_read_is_left_alone() -> None:
    for argument in ("--help", "-m", "~callbacks.ema", "lr=1e-3,1e-2", "+a.b=[1,2]", "optimizer.lr=0.1", "x="):
        assert quoted(argument) == argument


@pytest.mark.parametrize("argument", ["foo", "epochs"])
def test_an_argument_without_a_value_is_named(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument}: give KEY=VALUE"):
        check_form(["-m", argument])
    check_form(["--cfg", "job", "--config-dir", "mine", "~callbacks.ema", "epochs=3"])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("logger=null", "~logger"),
        ("dataset=null", "dataset=none"),
        ("resume=null", "resume=null"),
        ("a.b=null", "a.b=null"),
    ],
)
def test_a_group_of_null_is_left_out(argument: str, expected: str) -> None:
    assert without_null(argument) == expected
