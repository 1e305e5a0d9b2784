"""Process-wide settings that make training quicker on the machine at hand."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Lets glibc keep large buffers instead of giving them back to the system and faulting them in at each step.

    Training MobileNetV1-SSD on the CPU is about 1.3 times faster with it, at about the same peak memory. Call it
    before the large allocations. Returns whether it could be done (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 256 * 2**20}
    return all(mallopt(parameter, value) for parameter, value in settings.items())


def quick_precision() -> str:
    """`bf16-mixed` on a GPU that computes in bfloat16, else `32-true`.

    On CPUs bfloat16 training gains little (MobileNetV1) or loses; ask for it with trainer.precision=bf16-mixed.
    """
    import torch

    quick = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if quick else "32-true"


def quiet_libraries() -> None:
    """Hides what libraries say at start that helps nobody: one line of ours is worth more."""
    import logging
    import warnings

    for name in ("pytorch_lightning", "lightning_fabric", "faster_coco_eval", "onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*your dataloader is not resumable.*",  # it is: DetectionDataModule.state_dict
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*It is recommended to use `self.log\\(.*sync_dist=True.*",  # the metric is the same in every process
    ):
        warnings.filterwarnings("ignore", message=message)


def is_first_process() -> bool:
    """Whether this process speaks and writes for all those of a distributed run."""
    from pytorch_lightning.utilities import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0
