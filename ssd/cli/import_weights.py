"""Converts the weights of another SSD program into a release file: ssd import-weights source=FILE; see --help."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ssd.common import console
from ssd.common.errors import ConfigError
from ssd.model.ssd import build
from ssd.weights import checkpoint, third_party


def import_weights(config: DictConfig) -> None:
    """Writes the release file, and prints what was recognised.

    Raises:
        ConfigError: wrong name of the output, or the source is a checkpoint of ours.
        CheckpointError: not weights of a known program.
    """
    source, output = Path(config.source), Path(config.output)
    if output.suffix != ".safetensors":
        raise ConfigError(f"output={output}: must end in .safetensors")
    recipe, content = checkpoint.read_checkpoint(source)
    if recipe is not None:
        raise ConfigError(f"source={source}: is already a checkpoint of this program")
    imported = third_party.convert(
        content,
        source=source,
        class_names=config.class_names,
        labels=config.labels,
        channel_order=config.channel_order,
        image_size=config.image_size,
    )
    model = build(imported.recipe)
    checkpoint.load_strict(model, imported.state, name=str(source))
    checkpoint.save_release(model, output)
    for line in imported.report:
        console.log(line)
    shown = console.for_shell(output)
    console.log(f"written to {output}; next: python predict.py checkpoint={shown} source=FOLDER output=predictions")
