"""The engines' environments: built, in agreement with their locks, importable, and without known bad versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from prism_cli.doctor.diagnosis import Diagnosis

CUDA_PACKAGE = "cuda-toolkit"
"""The package in a lock whose version is the CUDA that its torch was built for."""
REGRESSIONS = {
    r"2\.9(\.|$)": "patch embedding of Qwen3-VL is several times slower there (Conv3D, pytorch issue 166122)",
}
"""torch versions, as a regular expression, and what is wrong with them."""


def examine(names: Sequence[str], tell: Callable[[str], None]) -> Iterator[Diagnosis]:
    """Look hard at each environment: this imports every engine, some of which take many seconds.

    Args:
        tell: hears which environment is being looked at.
    """
    from prism_cli.engines import environments

    for name in names:
        environment = environments.locate(name)
        built = environments.is_built(environment)
        if built:
            tell(f"looking at the {name} environment")
        problems = environments.check(name) if built else []
        yield judge(name, built, environment.own, environments.describe(name).optional, problems)
        yield from known_bad(name, own_torch(environment.folder) or environments.pins(name).get("torch", ""))


def own_torch(folder: Path) -> str | None:
    """Version of the torch that is installed in an environment's folder; None where there is none."""
    found = [
        path.name.removesuffix(".dist-info").removeprefix("torch-")
        for path in folder.glob("lib/python3*/site-packages/torch-*.dist-info")
    ]
    return found[0] if found else None


def judge(name: str, built: bool, own: bool, optional: bool, problems: Sequence[str]) -> Diagnosis:
    """What is to be said of one environment.

    Args:
        own: it is the user's, not built from prism's lock.
        optional: built only where it is asked for.
        problems: what `prism env check` found.
    """
    subject = f"{name} environment"
    if problems:
        fix = (
            f"mend it, see `prism env check {name}`" if own else f"`prism env remove {name}`, `prism env build {name}`"
        )
        return Diagnosis(subject, "error", "; ".join(problems), fix)
    if not built:
        when = (
            "it is built where it is asked for" if optional else f"`prism train` builds it; or `prism env build {name}`"
        )
        return Diagnosis(subject, "note", "not built", when)
    return Diagnosis(subject, "ok", "your own; it imports" if own else "agrees with its lock and imports")


def known_bad(name: str, torch: str) -> Iterator[Diagnosis]:
    """Is this engine's torch one that is known to be bad for these models?"""
    for pattern, what in REGRESSIONS.items():
        if re.match(pattern, torch):
            yield Diagnosis(
                f"{name} environment", "warning", f"torch {torch}: {what}", "take torch 2.8 or 2.10 and newer"
            )


def cuda(pins: Mapping[str, Mapping[str, str]]) -> dict[str, int]:
    """Major CUDA version of each engine.

    Args:
        pins: package versions by engine, as locked.
    """
    found = {name: locked.get(CUDA_PACKAGE, "") for name, locked in pins.items()}
    return {name: int(version.split(".")[0]) for name, version in found.items() if version}
