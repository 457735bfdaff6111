"""Probe several folders in one process, each answer beside its folder: release_probes.py FOLDER..."""

from __future__ import annotations

import sys
from pathlib import Path

from integrations.alignment.release_probe import main

for folder in map(Path, sys.argv[1:]):
    assert main(["--folder", str(folder), "--out", f"{folder}.json"]) == 0
