"""Launch scripts of PR1 and VLM-R1, and VLM-R1's data YAML, as a recipe. A script is read, never run."""

from __future__ import annotations

from perception_r1.importer.launch import Imported, import_launch
from perception_r1.importer.shell import parse_arguments

__all__ = ["Imported", "import_launch", "parse_arguments"]
