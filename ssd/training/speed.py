"""How long a run will take, by a few steps and images of its own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sized
from dataclasses import dataclass
from itertools import islice
from typing import cast

import torch

from ssd.common.structures import Batch
from ssd.data.datamodule import DetectionDataModule
from ssd.training.lightning_module import SSDModule

_STEPS = 3  # measured, after one that is not
_MARGIN = 1.1  # for what is not measured: optimizer, metrics, checkpoints


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of a training step, its images included, and of a validation."""

    step_s: float
    validation_s: float

    def duration_s(self, *, steps: int, validations: int) -> float:
        """Of a whole run."""
        return _MARGIN * (steps * self.step_s + validations * self.validation_s)

    def steps_within(self, seconds: float, *, validations: int) -> int:
        """The number of steps that fit; at least one for each validation."""
        return max(validations, int((seconds / _MARGIN - validations * self.validation_s) / self.step_s))


def measure_speed(module: SSDModule, data: DetectionDataModule, *, device: torch.device) -> Speed:
    """Times a few steps on copies, so that neither weights nor random numbers of the run change."""
    with torch.random.fork_rng():
        loader = data.train_dataloader()
        keys = list(islice(loader.sampler, data.batch_size))
        started = time.perf_counter()
        batch = loader.collate_fn([loader.dataset[key] for key in keys])
        load_s = time.perf_counter() - started
        batch = cast(Batch, batch).to(device)
        network = copy.deepcopy(module.model).to(device)

        def step() -> None:
            losses = module.loss(
                network.train()(batch.images),
                boxes=batch.boxes,
                labels=batch.labels,
                ignore=batch.ignore,
                priors=network.priors,
            )
            losses.total.backward()

        def forward() -> None:
            with torch.no_grad():
                network.eval()(batch.images)

        step_s, forward_s = (_median_s(call, device) for call in (step, forward))
        workers = data.num_workers
        step_s = max(step_s, load_s / workers) if workers else step_s + load_s
        images = len(cast(Sized, data.splits.val)) if data.splits.val is not None else 0
        return Speed(step_s, images / data.batch_size * max(forward_s, load_s / max(1, workers)))


def _median_s(call: Callable[[], None], device: torch.device) -> float:
    times = []
    for _ in range(_STEPS + 1):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[_STEPS // 2]
