"""The configuration: a tree of settings, loaded from a YAML file and the environment."""

from app.settings.loading import config_path, load_settings
from app.settings.tree import PubSubSettings, Settings, StoreSettings, describe, variable

__all__ = [
    "PubSubSettings",
    "Settings",
    "StoreSettings",
    "config_path",
    "describe",
    "load_settings",
    "variable",
]
