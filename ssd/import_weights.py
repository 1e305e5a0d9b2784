"""Makes a release file of another SSD program's weights: python -m ssd.import_weights source=FILE; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssd.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def import_weights(config: DictConfig) -> None:
    """Writes the release file and says what was understood."""
    from pathlib import Path

    from ssd import results
    from ssd.errors import ConfigError
    from ssd.model import build
    from ssd.weights import checkpoint, legacy

    source, output = Path(config.source), Path(config.output)
    if output.suffix != ".safetensors":
        raise ConfigError(f"output={output}: must end in .safetensors")
    recipe, content = checkpoint.contents(source)
    if recipe is not None:
        raise ConfigError(f"source={source}: is a checkpoint of this program already")
    imported = legacy.convert(
        content,
        source=source,
        class_names=config.class_names,
        labels=config.labels,
        channel_order=config.channel_order,
        image_size=config.image_size,
    )
    model = build(imported.recipe)
    checkpoint.fill(model, imported.state, name=str(source))
    checkpoint.save_release(model, output)
    for line in imported.report:
        results.say(line)
    results.say(f"written to {output}; next: python predict.py checkpoint={output} source=FOLDER output=predictions")


if __name__ == "__main__":
    run(import_weights, config_name="import_weights")
