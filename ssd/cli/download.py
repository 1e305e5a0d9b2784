"""Downloads a dataset: ssd download dataset=openimages [KEY=VALUE] ...; see --help."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from ssd.common.errors import ConfigError


def download(config: DictConfig) -> None:
    """Downloads what is missing, or with `stats_only` prints what is available."""
    if config.download is None:
        raise ConfigError("this dataset cannot be downloaded; choose dataset=openimages or dataset=voc")
    source = instantiate(config.download, _convert_="all")
    if config.stats_only:
        source.statistics()
    else:
        source.run()
