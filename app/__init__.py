"""Attributes Spot VM interruptions to the GKE cluster they hit, and counts each exactly once."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("spot-interruption-exporter")

DOCS_URL: Final = "https://git.example.com/spot-interruption-exporter/README.md"
"""The documentation with the runbook, whose sections have the alerts' names. The same as in render.py."""
