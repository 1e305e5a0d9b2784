"""Imported by the fork server alone (see forked.py): all that commands import, and warm caches of Hydra's parser."""

from __future__ import annotations

import importlib
import pkgutil

import faster_coco_eval  # noqa: F401
import hydra
import torch
from composed import CONF
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins

import ssd.cli
from ssd.cli.app import register_resolvers

for module in pkgutil.iter_modules(ssd.cli.__path__, "ssd.cli."):
    importlib.import_module(module.name)
for name in ("ssd.common.console", "ssd.inference.sources", "ssd.training.checkpoint_callbacks"):
    importlib.import_module(name)
Plugins.instance()
register_resolvers()
with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
    for name in ("train", "predict", "inspect", "evaluate"):
        hydra.compose(name, overrides=["~optimizer.fused"] if name == "train" else [])
GlobalHydra.instance().clear()
torch.set_num_threads(1)
