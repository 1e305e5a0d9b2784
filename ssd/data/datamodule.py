"""The LightningDataModule: loaders for the splits of a dataset."""

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

from ssd.common.structures import Batch
from ssd.data.augmentation import Augmentation
from ssd.data.dataset import DetectionDataset, collate
from ssd.data.index import DetectionIndex
from ssd.data.sampler import EvaluationSampler, TrainingStream, repeat_factors
from ssd.data.splits import Splits


class TimedLoader(DataLoader[Batch]):
    """A loader that adds up in `waited` the seconds that training waits for batches."""

    waited = 0.0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # a generator is enough for Lightning
        start = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


class DetectionDataModule(pl.LightningDataModule):
    """Loaders for the splits of a dataset.

    Args:
        read: reads the dataset, like `ssd.data.formats.voc.read_voc`.
        eval_augmentation: for validation and test.
        batch_size: images per step and device.
        num_workers: loader processes; None is one less than the number of cores, at most 8.
        seed: determines order and augmentation.
        strict: an image that cannot be decoded is an error.
        batches_per_epoch: steps between two validations; None for one pass over the images.
        balance: threshold of `repeat_factors` for training; None uses each image once per pass.
        prepare: downloads missing files; called before `read`, in one process per machine.
    """

    def __init__(
        self,
        read: Callable[[], Splits],
        *,
        train_augmentation: Augmentation,
        eval_augmentation: Augmentation,
        batch_size: int = 32,
        num_workers: int | None = None,
        seed: int = 0,
        strict: bool = False,
        batches_per_epoch: int | None = None,
        balance: float | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.train_augmentation = train_augmentation
        self.eval_augmentation = eval_augmentation
        self.batch_size = batch_size
        self.num_workers = min(8, (os.cpu_count() or 1) - 1) if num_workers is None else num_workers
        self.seed = seed
        self.strict = strict
        self.batches_per_epoch = batches_per_epoch
        self.balance = balance
        self._read = read
        self._prepare = prepare
        self._splits: Splits | None = None
        self._datasets: dict[str, DetectionDataset] = {}
        self._stream: TrainingStream
        self._resume: dict[str, int] | None = None

    def prepare_data(self) -> None:
        if self._prepare is not None and self._splits is None:
            self._prepare()

    @property
    def splits(self) -> Splits:
        """The dataset, read on first access."""
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
        dataset = DetectionDataset(index, augmentation, seed=self.seed, strict=self.strict)
        self._datasets[split] = dataset
        return TimedLoader(
            cast(Dataset[Batch], dataset),
            batch_size=self.batch_size,
            sampler=self._training_stream(index) if training else EvaluationSampler(len(index), **self._rank()),
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_prepare_worker,
            generator=torch.Generator(),  # seeds of workers must not take random numbers from the network
        )

    def _training_stream(self, index: DetectionIndex) -> TrainingStream:
        stream = TrainingStream(
            len(index),
            batch_size=self.batch_size,
            batches=self.batches_per_epoch,
            seed=self.seed,
            factors=None if self.balance is None else repeat_factors(index, self.balance),
            **self._rank(),
        )
        if self._resume is not None:
            epoch = self._resume["epoch"]
            if "position" in self._resume:
                position, used = self._resume["position"], self._resume["batches"] * self.batch_size
            else:  # of version 0.1, in which an epoch was a pass
                used = self._resume["samples"]
                position = epoch * len(index) + used
            stream.resume_from(epoch, position=position, used=used)
        self._stream = stream
        return stream

    def _rank(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world_size": trainer.world_size} if trainer else {}

    def skipped_images(self) -> dict[str, list[str]]:
        """The images of each split that could not be decoded, so far; their objects do not count in the metrics."""
        return {split: skipped for split, dataset in self._datasets.items() if (skipped := dataset.skipped)}

    def state_dict(self) -> dict[str, int]:
        """The current epoch, how many of its batches are done, and the place in the stream of training images."""
        progress = self.trainer.fit_loop.state_dict()  # type: ignore[union-attr]
        epochs = progress["epoch_progress"]["current"]
        in_epoch = epochs["started"] > epochs["processed"]
        batches = progress["epoch_loop.batch_progress"]["current"]["processed"] if in_epoch else 0
        epoch, used = epochs["processed"], batches * self.batch_size
        return {"epoch": epoch, "batches": batches, "position": self._stream.position(epoch, used)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._resume = dict(state_dict)


def _prepare_worker(_worker: int) -> None:
    """One thread, as training needs the cores. Signals are for the main process, which finishes its step first."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()


def _exit_on_sigterm_of_parent() -> None:
    """Ends a worker on a SIGTERM from the main process, but not on one to the whole process group."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
