"""Keys where nobody says them: what is left out of names, and what a search compares with."""
from __future__ import annotations

from core.config import Config, make_config


def plain(config: Config) -> Config:
    """The configuration of the same data set and model with every other key at its default."""
    return make_config({"dataset": config.dataset, "description": config.description, "model": config.model})
