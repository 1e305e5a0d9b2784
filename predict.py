"""Detects objects in pictures: python predict.py checkpoint=FILE source=SRC output=DIR; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssd.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def predict(config: DictConfig) -> None:
    """Writes predictions.jsonl and the pictures with their boxes drawn."""
    from hydra.utils import instantiate

    from ssd import checkpoint, runtime
    from ssd.prediction import predict_pictures
    from ssd.predictor import Predictor
    from ssd.sources import find_pictures

    runtime.keep_freed_memory()
    model = checkpoint.load(config.checkpoint)
    pictures = find_pictures(config.source)
    predictor = Predictor(model, instantiate(config.postprocess), device=config.device)
    predict_pictures(
        predictor,
        pictures,
        output=config.output,
        batch_size=config.batch_size,
        draw_threshold=config.draw_threshold,
    )


if __name__ == "__main__":
    run(predict, config_name="predict")
