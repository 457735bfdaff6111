"""Both lines of the client library for a process: 2.x, which prism's own environment has, and 1.x.

    subprocess.run([sys.executable, "-m", "prism_cli", ...], env={**os.environ, **server.env(), **client_env("1.x")})

1.x is installed once from `client1/requirements.lock` into a folder in prism's cache, and stands before the other
packages on the process's path. Afterwards neither a network nor uv is needed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "client1" / "requirements.lock"
LINES = ("1.x", "2.x")


def client_env(line: str) -> dict[str, str]:
    """Variables that give a process this line of huggingface_hub.

    Raises:
        ValueError: no such line.
        RuntimeError: it cannot be installed.
    """
    if line not in LINES:
        raise ValueError(f"{line} is none of {', '.join(LINES)}")
    if line == "2.x":
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_installed()), os.environ.get("PYTHONPATH")]))}


def _installed() -> Path:
    """The folder with 1.x, made now if it is not there. It is renamed into place when it is whole."""
    from filelock import FileLock

    from prism_cli.engines.environments import cache_folder, run_uv

    key = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / "tests" / f"client1-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            made = folder.with_name(f".making-{folder.name}")
            shutil.rmtree(made, ignore_errors=True)
            heard: list[str] = []
            install = ["pip", "install", "--python", sys.executable, "--target", str(made), "--no-deps"]
            if run_uv([*install, "--require-hashes", "-r", str(LOCK)], heard.append) != 0:
                raise RuntimeError("huggingface_hub 1.x cannot be installed:\n" + "\n".join(heard))
            made.rename(folder)
    return folder
