"""ssd predict: detects objects in images, videos and camera streams; see --help."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.cli.overrides import explicit_overrides
from ssd.common import runtime
from ssd.inference.detector import open_predictor
from ssd.inference.predict_media import PredictOptions, predict_media
from ssd.inference.sources import find_media

_TERMINATED = 143


def predict(config: DictConfig) -> None:
    """Writes the records, and the images or videos with their boxes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # SystemExit lets the writers complete their files
    runtime.keep_freed_memory()
    predictor = open_predictor(
        config.checkpoint,
        instantiate(config.postprocess),
        device=config.device,
        precision=config.precision,
        explicit_overrides=explicit_overrides("postprocess"),
        tile=config.tile,
        batch_size=config.batch_size,
    )
    options = PredictOptions(
        save=_as_list(config.save),
        classes=_as_list(config.classes),
        draw_threshold=config.draw_threshold,
        batch_size=config.batch_size,
        max_frames=config.max_frames,
        track=config.track,
        show=config.show,
    )
    with TemporaryDirectory(prefix="ssd-") as downloads:
        media = find_media(config.source, downloads=Path(downloads), output=config.output)
        predict_media(predictor, media, output=config.output, options=options)


def _as_list(value: Any) -> Any:
    """A single name as a list; null and lists stay."""
    return [value] if isinstance(value, str) else value
