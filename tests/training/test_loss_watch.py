"""A loss that does not fall is reported after a tenth of the steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch

from ssd.training.loss_watch import LossWatch


def warnings(
    caplog: pytest.LogCaptureFixture, loss: Callable[[int], float], *, steps: int = 1000, first: int = 0
) -> list[str]:
    watch, trainer = LossWatch(), mock.Mock(spec=pl.Trainer, estimated_stepping_batches=steps, global_step=first)
    with caplog.at_level(logging.INFO):
        watch.on_train_start(trainer)
        for step in range(first + 1, steps + 1):
            trainer.global_step = step
            watch.on_train_batch_end(trainer, None, {"loss": torch.tensor(loss(step))})
    return [record.getMessage() for record in caplog.records]


def test_a_falling_loss_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(caplog, lambda step: 10 / step**0.1) == []


def test_a_constant_loss_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = warnings(caplog, lambda step: 7.0)
    assert line.startswith("warning: after 100 steps the loss is 7.00, from 7.00 at the start")
    assert "too low" in line


def test_a_rising_loss_is_reported_as_a_high_rate(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = warnings(caplog, lambda step: 5 + step / 50)
    assert "after 100 steps" in line
    assert "learning rate is likely too high" in line


@pytest.mark.parametrize("limits", [{"steps": 100}, {"first": 50}], ids=["a short run", "a resumed run"])
def test_runs_that_say_nothing(caplog: pytest.LogCaptureFixture, limits: dict[str, int]) -> None:
    assert warnings(caplog, lambda step: 7.0, **limits) == []
