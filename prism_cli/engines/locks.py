"""Compiles an engine's `requirements.in` to its `requirements.lock`: `prism env lock [NAME...] [--upgrade]`.

So also `requirements-gpu.in`, where an engine has one.

For those who change the project. The lock is universal (one for every supported interpreter and platform), pinned by
hash, and names no package index: a `uv.lock` records download addresses, so uv's pip interface is used instead.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from integrations.errors import BadInput, StageFailed
from prism_cli.engines import environments
from prism_cli.engines.environments import Report

OLDEST_PYTHON = "3.11"


def compile_lock(name: str, report: Report, upgrade: bool = False) -> bool:
    """Compile the engine's locks anew, keeping versions that still fit unless `upgrade`. True if one changed.

    Raises:
        BadInput: unknown engine, or the project's folder cannot be written.
        StageFailed: uv found no solution, or could not reach the package index.
    """
    changed = [_compile(name, lock, upgrade) for lock in environments.lock_files(name)]
    written = f"written, {len(environments.pins(name))} packages"
    report(f"{name}: {written if any(changed) else 'unchanged'}")
    return any(changed)


def _compile(name: str, lock: Path, upgrade: bool) -> bool:
    before = lock.read_text(encoding="utf-8")
    arguments = ["pip", "compile", "--universal", "--python-version", OLDEST_PYTHON, "--generate-hashes"]
    arguments += ["--no-emit-index-url", "--no-annotate", "--no-header", "--quiet"]
    arguments += ["--upgrade"] if upgrade else []
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / lock.name
        draft.write_text(before, encoding="utf-8")
        wanted = lock.with_suffix(".in")
        if environments.run_uv([*arguments, str(wanted), "--output-file", str(draft)], lines.append) != 0:
            raise StageFailed(f"cannot compile the lock of {name}: {'; '.join(lines[-3:])}", f"correct {wanted}")
        after = draft.read_text(encoding="utf-8")
    if "://" in after:
        raise StageFailed(f"the new lock of {name} names an address", f"require packages by name only in {wanted}")
    if after == before:
        return False
    try:
        fresh = lock.with_name(f"{lock.name}.tmp")
        fresh.write_text(after, encoding="utf-8")
        fresh.replace(lock)
    except OSError as error:
        raise BadInput(f"cannot write {lock}: {error.strerror}", "work in a checkout of the project") from error
    return True
