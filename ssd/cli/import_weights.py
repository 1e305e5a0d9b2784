"""Makes a release file of another SSD program's weights: python -m ssd import-weights source=FILE; see --help."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def import_weights(config: DictConfig) -> None:
    """Writes the release file and says what was understood."""
    from pathlib import Path

    from ssd.common import console
    from ssd.common.errors import ConfigError
    from ssd.model.ssd import build
    from ssd.weights import checkpoint, third_party

    source, output = Path(config.source), Path(config.output)
    if output.suffix != ".safetensors":
        raise ConfigError(f"output={output}: must end in .safetensors")
    recipe, content = checkpoint.contents(source)
    if recipe is not None:
        raise ConfigError(f"source={source}: is a checkpoint of this program already")
    imported = third_party.convert(
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
        console.log(line)
    console.log(f"written to {output}; next: python predict.py checkpoint={output} source=FOLDER output=predictions")
