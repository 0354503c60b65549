"""Attributes Spot VM interruptions to the GKE cluster they hit, and counts each exactly once."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("spot-interruption-exporter")
