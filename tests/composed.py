"""Configurations as a command composes them, without running the command."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ssd.cli.app import register_resolvers
from ssd.cli.config import CONF

__all__ = ["CONF", "compose"]


def compose(*overrides: str, name: str = "train") -> DictConfig:
    """The configuration of a command; call it in a temporary folder."""
    register_resolvers()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(name, overrides=list(overrides), return_hydra_config=True)
    config.hydra.runtime.output_dir = "run"
    HydraConfig.instance().set_config(config)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    return config
