"""Attributes Spot VM interruptions to the GKE cluster they hit, and counts each exactly once."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("spot-interruption-exporter")

DOCS_URL: Final = "https://git.example.com/spot-interruption-exporter/docs"
"""The folder of the documentation: index.md, and runbook.md, whose address is also in render.py."""
