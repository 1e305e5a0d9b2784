"""Fills the settings that are `auto`: from the plan of the run, which is made of its data or read from its folder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ssd.cli import build
from ssd.common.atomic_files import write_atomically
from ssd.common.console import log
from ssd.common.errors import ConfigError, SSDError
from ssd.common.runtime import is_first_process
from ssd.data.analysis.prior_coverage import (
    MIN_SHARE,
    Coverage,
    fit_priors,
    low_coverage,
    measure_coverage,
    sample_boxes,
)
from ssd.data.index import DetectionIndex
from ssd.data.splits import Splits
from ssd.model.priors import PriorSpec
from ssd.model.ssd import measure as measure_grids
from ssd.training import plan
from ssd.training.plan import AUTO, DataFacts, PlanLine
from ssd.training.run_dir import as_yaml, saved_settings
from ssd.training.speed import Speed, measure_speed
from ssd.weights import published, transfer
from ssd.weights.transfer import IMAGENET

PLAN_FILE = "plan.yaml"  # in a run folder
_AUTO_KEYS = ("backbone.first_stride", "image_size", "batch_size", "optimizer.lr", "steps", "validations")
_PRIORS = [field.name for field in fields(PriorSpec)]


def fill(config: DictConfig, splits: Splits, folder: Path | None) -> None:
    """Replaces each `auto` by what the plan decides, which is printed, and saved in the `folder` of the run.

    Processes that the first one launches have its plan: what depends on the network or on the speed of the machine
    could differ, and their numbers of steps must not.
    """
    if not is_first_process() and folder is not None:
        inherit(config, saved_settings(folder))
    lines = [*_fill_weights(config), *make_plan(config, splits)]
    if lines:
        plan.plan_table(lines).log()
    if lines and folder is not None and is_first_process():
        content = {line.setting: {"value": line.value, "why": line.reason} for line in lines}
        write_atomically(folder / PLAN_FILE, as_yaml(content))
    build.fill_auto(config)


def log_coverage(config: DictConfig, train: DetectionIndex) -> Coverage:
    """How many of the training boxes the priors match; it is logged where that is few."""
    boxes, labels = sample_boxes(train, seed=config.seed)
    with torch.random.fork_rng(devices=[]):  # builds a network; the run itself is not affected
        layout, names = build.prior_layout(config), train.class_names
    coverage = measure_coverage(layout, boxes, labels, num_classes=len(names))
    if (line := low_coverage(coverage, names)) is not None:
        log(f"warning: {line}")
    return coverage


def planned_steps(config: DictConfig, train: DetectionIndex) -> int:
    """The number of steps that the plan takes for this data, whatever is given."""
    facts = DataFacts.of(train, pretrained=is_pretrained(config))
    return int(plan.plan_steps(facts, batch_size=config.batch_size).value)


def _fill_weights(config: DictConfig) -> list[PlanLine]:
    """Initial weights for images of one's own: ImageNet's, which are downloaded unless they are there (or dry_run).

    They are loaded once here, so that the plan does not count on weights that cannot be used.
    """
    if config.backbone.get("weights") != AUTO:
        return []
    config.backbone.weights = None
    if config.init_from is not None or config.dataset.get("root") is None:
        return []
    with torch.random.fork_rng(devices=[]):  # the run itself is not affected
        backbone: Any = build.build_backbone(config)
    name = getattr(backbone, "imagenet_weights", None)
    if name is None:
        return [PlanLine("backbone.weights", None, "random: none are published for this backbone")]
    reason = "ImageNet's: far fewer steps, and a higher mAP"
    if not config.dry_run:
        try:
            transfer.load_base(backbone, IMAGENET)
        except SSDError as error:
            log(
                "warning: the initial weights are random, which costs steps and mAP (on BCCD, mAP@0.5 of 0.67 instead "
                f"of 0.86); give backbone.weights=FILE or init_from=FILE: {error}"
            )
            reason = "random, as none could be had: more steps, and a lower mAP"
            return [PlanLine("backbone.weights", None, reason)]
    elif not published.cache_path(name).is_file():
        reason += "; to be downloaded by the run itself"
    config.backbone.weights = IMAGENET
    return [PlanLine("backbone.weights", IMAGENET, reason)]


def log_duration(config: DictConfig, splits: Splits) -> None:
    """Prints how long the run would take on this machine."""
    speed, images = measure(config, splits), len(splits.train or ())
    steps, rounds = config.steps, config.validations
    if steps == AUTO:
        rounds = config.epochs
        steps = rounds * math.ceil(images / config.batch_size)
    seconds = timedelta(seconds=round(speed.duration_s(steps=steps, validations=rounds)))
    measured = f"{speed.step_s:.2f} s a step and {speed.validation_s:.1f} s a validation on this machine"
    log(f"estimated duration: {seconds}, by {measured}")


def measure(config: DictConfig, splits: Splits) -> Speed:
    """The speed of the run that `config` describes, as far as it is decided; the run itself is not affected."""
    config = copy.deepcopy(config)
    build.fill_auto(config)
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    with torch.random.fork_rng():
        data = build.build_datamodule(config, splits)
        module = build.build_module(config, build.build_model(config, data.class_names, resumes=True))
        return measure_speed(module, data, device=torch.device("cuda" if on_gpu else "cpu"))


def make_plan(config: DictConfig, splits: Splits) -> list[PlanLine]:
    """The lines for the settings that are `auto`; those that the user gives count as they are. Fills `config`."""
    index = splits.train
    if not config.plan or index is None:
        return []
    facts = DataFacts.of(index, pretrained=is_pretrained(config))
    lines: list[PlanLine] = []

    def decide(setting: str, line: Callable[[], PlanLine]) -> None:
        if OmegaConf.select(config, setting) == AUTO:
            lines.append(line())
            _fill(config, lines[-1].setting, lines[-1].value)

    size = build.default_image_size(config)
    at_size = size if config.image_size == AUTO else config.image_size
    decide("backbone.first_stride", lambda: plan.plan_first_stride(facts, image_size=at_size))
    decide("image_size", lambda: plan.plan_image_size(facts, default=size, stride_px=_stride_px(config, size)))
    if config.priors.file is None and all(config.priors[name] == AUTO for name in _PRIORS):
        decide("priors.scales", lambda: _plan_priors(config, index))
    decide("batch_size", lambda: plan.plan_batch_size(facts))
    decide("optimizer.lr", lambda: plan.plan_lr(config.optimizer._target_))
    if config.budget_minutes is not None:
        decide("validations", lambda: PlanLine("validations", plan.VALIDATIONS, "evenly over the run"))
        decide("steps", lambda: _plan_budget(config, splits))
    elif config.epochs is None and config.trainer.max_epochs is None:
        decide("steps", lambda: plan.plan_steps(facts, batch_size=config.batch_size))
    if config.steps != AUTO:
        decide("validations", lambda: plan.plan_validations(config.steps))
    return lines


def _stride_px(config: DictConfig, image_size: int) -> float:
    """Side of the cells of the backbone's finest grid."""
    rows = measure_grids(build.build_backbone(config), image_size=image_size)[0][1]
    return float(2 ** round(math.log2(image_size / rows)))


def _plan_budget(config: DictConfig, splits: Splits) -> PlanLine:
    speed = measure(config, splits)
    steps = speed.steps_within(60 * config.budget_minutes, validations=config.validations)
    return PlanLine("steps", steps, f"end in {config.budget_minutes:g} minutes, at {speed.step_s:.2f} s a step here")


def _fill(config: DictConfig, setting: str, value: Any) -> None:
    if setting == "priors":
        for name, item in value.items():
            config.priors[name] = item
    else:
        OmegaConf.update(config, setting, value)


def is_pretrained(config: DictConfig) -> bool:
    """Whether the base net starts from weights."""
    return config.backbone.get("weights") is not None or config.get("init_from") is not None


def _plan_priors(config: DictConfig, index: DetectionIndex) -> PlanLine:
    """The backbone's priors if they match 90 % of the boxes, else ones that are fitted to the boxes."""
    published_config = copy.deepcopy(config)
    build.fill_auto(published_config)
    layout = build.prior_layout(published_config)
    boxes, labels = sample_boxes(index, seed=config.seed)
    measure_share = partial(measure_coverage, boxes=boxes, labels=labels, num_classes=len(index.class_names))
    share = measure_share(layout).class_share
    published = f"the backbone's match {share:.0%} of the boxes of a class on average"
    if share >= MIN_SHARE:
        return PlanLine("priors", {}, published)
    spec = fit_priors(layout, boxes, labels, seed=config.seed)
    after = measure_share(replace(layout, spec=spec)).class_share
    return PlanLine("priors", spec.as_dict(), f"{published}; fitted ones match {after:.0%}")


def inherit(config: DictConfig, saved: Any) -> None:
    """Gives a resumed run the `saved` values of what is `auto` now, and its length unless another one is given.

    A run of a version without a setting has the fixed value of it, so that nothing is planned in its middle. What is
    still `auto` in `saved`, as the run ended before its plan, is planned now.
    """
    saved = saved if isinstance(saved, dict) else {}
    if config.backbone.get("weights") == AUTO:
        backbone = saved.get("backbone")
        weights = backbone.get("weights") if isinstance(backbone, dict) else None
        config.backbone.weights = weights if weights in (IMAGENET, AUTO) else None  # no file that a stranger names
    if config.epochs is None and config.steps == AUTO:
        config.epochs = saved.get("epochs")
    for key in [*_AUTO_KEYS, *(f"priors.{name}" for name in _PRIORS)]:
        if key == "steps" and config.epochs is not None:
            continue
        node: Any = saved
        for name in key.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        if OmegaConf.select(config, key) == AUTO and node is not None:
            OmegaConf.update(config, key, node, force_add=False)
    config.plan = config.plan and "plan" in saved


def check_length(config: DictConfig, given: list[str]) -> None:
    """Lets the command line decide between epochs and steps, where an experiment has the other.

    Raises:
        ConfigError: both are given, or one together with a budget.
    """
    if config.budget_minutes is not None:
        if {"steps", "epochs"} & set(given) or not config.plan:
            raise ConfigError(
                f"budget_minutes={config.budget_minutes:g}: the plan decides the number of steps; leave out steps, "
                "epochs and plan=false"
            )
        config.steps, config.epochs = AUTO, None
    if config.epochs is None or config.steps == AUTO:
        return
    if ("steps" in given) == ("epochs" in given):
        raise ConfigError(f"steps={config.steps} epochs={config.epochs}: give one of the two")
    if "steps" in given:
        config.epochs = None
    else:
        config.steps = AUTO
