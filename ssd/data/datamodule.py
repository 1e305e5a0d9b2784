"""The LightningDataModule: splits to loaders."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any, cast

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from ssd.data.augmentation import Augmentation
from ssd.data.dataset import DetectionDataset, EpochSampler, collate
from ssd.data.sampler import repeat_factors
from ssd.data.splits import Splits
from ssd.model.structures import Batch


class TimedLoader(DataLoader[Batch]):
    """Counts in `waited` the seconds for which the training had to wait for a batch."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator is enough for Lightning
        start = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


class DetectionDataModule(pl.LightningDataModule):
    """Loaders for the splits that a reader finds.

    Args:
        read: reads the dataset; see `ssd.data.formats.voc.read_voc` for one.
        train_augmentation, eval_augmentation: the first for training only.
        batch_size: images a step, on each device.
        num_workers: loader processes; None is one less than the machine has cores, at most 8.
        seed: of order and augmentation.
        balance: threshold of `balance.repeat_factors` for training; None draws each image once an epoch.
        prepare: fetches what is missing; called before `read`, on one process of a machine only.
    """

    def __init__(
        self,
        read: Callable[[], Splits],
        *,
        train_augmentation: Augmentation,
        eval_augmentation: Augmentation,
        batch_size: int,
        num_workers: int | None,
        seed: int,
        balance: float | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.train_augmentation = train_augmentation
        self.eval_augmentation = eval_augmentation
        self.batch_size = batch_size
        self.num_workers = min(8, (os.cpu_count() or 1) - 1) if num_workers is None else num_workers
        self.seed = seed
        self.balance = balance
        self._read = read
        self._prepare = prepare
        self._splits: Splits | None = None
        self._go_on = {"epoch": 0, "samples": 0}

    def prepare_data(self) -> None:
        if self._prepare is not None and self._splits is None:
            self._prepare()

    @property
    def splits(self) -> Splits:
        """The dataset, read at first use."""
        if self._splits is None:
            self._splits = self._read()
        return self._splits

    @property
    def class_names(self) -> tuple[str, ...]:
        """The C classes, in the order of the labels."""
        return self.splits.class_names

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self._loader("val") if self.splits.val is not None else []

    def test_dataloader(self) -> DataLoader[Batch] | list[Any]:
        return self._loader("test") if self.splits.test is not None else []

    def _loader(self, split: str) -> DataLoader[Batch]:
        training = split == "train"
        index = getattr(self.splits, split)
        augmentation = self.train_augmentation if training else self.eval_augmentation
        trainer = self.trainer
        sampler = EpochSampler(
            len(index),
            shuffle=training,
            seed=self.seed,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            draws=repeat_factors(index, self.balance) if training and self.balance is not None else None,
        )
        if training:
            sampler.go_on(**self._go_on)
        return TimedLoader(
            cast(Dataset[Batch], DetectionDataset(index, augmentation, seed=self.seed)),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            drop_last=training and len(sampler) >= self.batch_size,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # the seeds of workers must not cost the network random numbers
        )

    def state_dict(self) -> dict[str, int]:
        """Where the training is: the epoch, and how many samples of it each rank has used."""
        progress = self.trainer.fit_loop.state_dict()  # type: ignore[union-attr]
        epochs = progress["epoch_progress"]["current"]
        in_epoch = epochs["started"] > epochs["processed"]
        batches = progress["epoch_loop.batch_progress"]["current"]["processed"] if in_epoch else 0
        return {"epoch": epochs["processed"], "samples": batches * self.batch_size}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._go_on = dict(state_dict)


def _prepare_worker(_worker: int) -> None:
    """One thread: the cores belong to the training. Signals are for the main process, which has a step to end."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_leave_when_told, daemon=True).start()


def _leave_when_told() -> None:
    """A SIGTERM of the main process ends a worker; one for the whole process group does not."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
