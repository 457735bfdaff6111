"""Suites: which benchmarks are evaluated together, with which tasks, and what is reported of each.

A suite is a YAML file beside this module (or any other file of that form); `tasks/` holds the lmms-eval task
definitions that suites name, and the functions that score them.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from integrations.contract import Settings
from integrations.errors import BadInput

FOLDER = Path(__file__).resolve().parent
TASKS = FOLDER / "tasks"

ProtocolName = Literal["paper", "sample", "greedy"]

PROTOCOLS: dict[str, dict[str, float | int]] = {
    "paper": {"temperature": 1.0, "top_p": 0.7, "top_k": 0},
    "sample": {"temperature": 1.0, "top_p": 1.0, "top_k": 0},
    "greedy": {"temperature": 0.0, "top_p": 1.0, "top_k": 0},
}
"""Decoding by name. `paper` is that of the paper's evaluation script; top_k 0 keeps all tokens."""


class Benchmark(Settings):
    """One column of the table."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Short name, in files and options."""
    title: str
    """Name for tables."""
    tasks: list[str] = Field(min_length=1)
    """lmms-eval tasks of ours, one cell each. The benchmark's score is the mean over tasks of the share of correct
    responses."""
    also: list[str] = Field(default_factory=list)
    """Further numbers reported beside the score, by the names of `benchmarks.metrics`."""
    judge: bool = False
    """An LLM judge is asked about answers that rules cannot decide."""
    max_new_tokens: int = Field(ge=1)
    """Longest response in tokens."""
    items: dict[str, int] = Field(default_factory=dict)
    """Items in each task's published split, for the completeness check; empty: whatever the data holds."""


class Suite(Settings):
    """Benchmarks that are evaluated and reported together."""

    format: Literal[1] = 1
    """Version of this form."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """The suite's name."""
    description: str
    """What it is for, in a sentence or two."""
    protocols: list[ProtocolName] = Field(min_length=1)
    """Protocols run when none is asked for, the main one first."""
    benchmarks: list[Benchmark] = Field(min_length=1)
    """In the order of every table."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, names in (
            ("benchmark", [b.name for b in self.benchmarks]),
            ("task", [task for b in self.benchmarks for task in b.tasks]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{what} `{twice[0]}` stands there twice")
        return self


def names() -> list[str]:
    """Names of the suites that come with prism."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_suite(name: str) -> Suite:
    """A suite by name, or from a YAML file.

    Raises:
        BadInput: no such suite (near matches are named), or the file is not one.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
            guess = f"did you mean {' or '.join(near)}?" if near else "give one of them, or a YAML file"
            raise BadInput(f"there is no suite `{name}`; there are {', '.join(names())}", guess)
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Suite.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"cannot read the suite {path}: {error}", "give a YAML file of a suite") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"suite {path}: `{where}`: {first['msg']}", "see benchmarks/suites/digits.yaml") from error
