"""What a release says about itself: one JSON document, from which the card is rendered and nothing else.

    facts = Facts.model_validate_json(text)
    facts.to_json()                 the text of `provenance/facts.json`

Every number of a card stands here, so that a reader can trace it. The fields are an allow-list: there is no room for a
user's name, a host, an absolute path or an environment variable.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REPO = r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$"
TAG = r"^[A-Za-z0-9][\w.-]{0,63}$"
HASH = r"^[0-9a-f]{64}$"
VERSION = r"^[\w.+!-]+$"
URL = r"^https://[\w./%-]+$"
PICTURE = r"^images/[A-Za-z0-9][\w.-]*\.png$"

StageKind = Literal["sft", "discriminator", "align", "rlvr"]


class Fact(BaseModel):
    """Base of every part: unknown fields are refused, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Weights(Fact):
    """The released model."""

    architecture: str
    """Class of transformers that loads it, as config.json names it."""
    model_type: str
    parameters: int = Field(ge=0)
    """Numbers in all tensors, each tensor once."""
    dtypes: list[str] = Field(min_length=1)
    """Of the tensors, as safetensors spells them."""
    transformers: str | None = Field(default=None, pattern=VERSION)
    """Version that wrote config.json."""
    hash: str = Field(pattern=HASH)
    """sha256 over names and bytes of the stage's model folder in the run."""


class Base(Fact):
    """What training started from."""

    origin: Literal["hub", "folder", "random"]
    """`random`: weights drawn here, so there is no earlier model."""
    repo: str | None = Field(default=None, pattern=REPO)
    revision: str | None = None
    """Commit of the repository."""
    licence: str | None = None
    """As the base model's own card states it (a Hub licence id); null where it states none."""
    hash: str | None = Field(default=None, pattern=HASH)
    """sha256 over names and bytes of the first policy's folder."""


class Recipe(Fact):
    """What was asked for."""

    name: str
    hash: str = Field(pattern=HASH)
    """sha256 of the resolved recipe as it ran."""
    profile: str | None = None
    changes: list[str] = []
    """Fields changed on the command line, `field=value`."""
    resolved: dict[str, Any]
    """Every field with its value, without what concerns the machine only."""


class Parent(Fact):
    """What a stage was made from."""

    role: str
    """`policy` or `discriminator`."""
    stage: str
    hash: str = Field(pattern=HASH)


class Stage(Fact):
    """One finished stage on the way from the base to this release."""

    name: str
    """In the run, e.g. `prism/align`."""
    title: str
    """For tables."""
    kind: StageKind
    engine: str
    """The engine that trained it."""
    environment: str
    """Key of the engine's locked environment at that time."""
    steps: int
    seconds: float
    """Wall time over all attempts."""
    generated_tokens: int
    """Tokens that the policy generated while training."""
    rows: dict[str, int]
    """`given`, `trained` and what else was counted of the stage's data."""
    pools: list[str]
    settings: dict[str, str | int | float | bool | None]
    """The settings that matter most, by their names in the recipe."""
    measured: dict[str, float]
    """What the stage measured at its end, by the engine's names."""
    notes: list[str] = []
    parents: list[Parent]
    hash: str = Field(pattern=HASH)
    finished: str


class Source(Fact):
    """Where data came from."""

    name: str
    url: str | None = Field(default=None, pattern=URL)
    licence: str
    """A Hub licence id, or `unknown`."""
    attribution: str


class Data(Fact):
    """What the run was trained on."""

    kind: str
    """`digits`: generated from scans; `files`: pools of the user's own."""
    description: str
    pools: dict[str, int]
    """Rows by pool."""
    held_out: list[str]
    """Pools that no stage trains on."""
    hash: str = Field(pattern=HASH)
    repo: str | None = Field(default=None, pattern=REPO)
    """Dataset repository in which these pools are released."""
    sources: list[Source]
    notes: list[str] = []


class Setup(Fact):
    """How one task was asked under one protocol."""

    suite: str
    benchmark: str
    task: str
    protocol: str
    harness: str
    """Name and version."""
    harness_lock: str | None = None
    """sha256 of the harness's locked environment."""
    server: str
    """Engine that answered, with what can change a response."""
    temperature: float
    top_p: float
    top_k: int
    """0: all tokens."""
    max_new_tokens: int
    prompt: str
    samples_per_item: int
    decoding_seeds: list[int]
    items: int
    limited: bool
    """Only the first items of the task were asked."""
    dataset: str | None = Field(default=None, pattern=REPO)
    """Data set on the Hub; null: pools of the run."""
    dataset_revision: str | None = None
    dataset_hash: str
    task_hash: str
    """sha256 of the task's files and scoring code."""
    judge: str
    """Who decides about answers: `rules`, or a model."""
    created: str


class Evaluation(Fact):
    """What was measured."""

    comparisons: list[dict[str, Any]] = Field(min_length=1)
    """As `prism compare --json` prints them, with the models concerned only."""
    setups: list[Setup]
    titles: dict[str, str]
    """Names for tables of the models, by their labels in `comparisons`."""


class Member(Fact):
    """A checkpoint of the same family."""

    repo: str = Field(pattern=REPO)
    stage: str
    title: str
    line: str
    """What it is, in one line."""


class Engine(Fact):
    """A locked environment that took part."""

    name: str
    lock_sha256: str = Field(pattern=HASH)
    versions: dict[str, Annotated[str, Field(pattern=VERSION)]]
    """Of its main packages; empty where the lock is not the one of the releasing code."""


class Code(Fact):
    """The code that ran."""

    version: str
    commit: str | None = None
    dirty: bool = False
    """The checkout had changes that no commit holds."""


class Machine(Fact):
    """Kind and size of the machine, not whose it is."""

    system: str
    processor: str
    cores: int | None
    memory_bytes: int | None
    gpus: list[str]
    python: str


class Example(Fact):
    """An item to try the model on."""

    image: str | None = Field(pattern=PICTURE)
    """Path in the release; null: one is drawn that shows `12 + 30 = ?`."""
    system: str | None = None
    """The system turn under which the model was evaluated."""
    question: str
    reference: str
    response: str | None = None
    """The model's greedy response, as the evaluation recorded it."""
    correct: bool | None = None
    max_new_tokens: int


class Change(Fact):
    """One release."""

    tag: str = Field(pattern=TAG)
    date: str
    what: str


class Facts(Fact):
    """One release of one model."""

    format: Literal[1] = 1
    repo: str = Field(pattern=REPO)
    tag: str = Field(pattern=TAG)
    created: str
    """Day of the newest thing that the release holds, so that the same run always makes the same release."""
    draft: bool
    """Not evaluated; the card says so."""
    title: str
    """What the model is, e.g. `SFT → PRISM → GRPO`."""
    run: str
    seed: int
    arm: str
    """`shared` where several arms have the stage."""
    stage: str
    kind: StageKind
    algorithm: str | None = None
    """Of RLVR."""
    arms: dict[str, list[str]]
    """Stages of every arm of the run, in order."""
    weights: Weights
    base: Base
    recipe: Recipe
    chain: list[Stage] = Field(min_length=1)
    """From the first stage to this one, a discriminator beside them included."""
    data: Data
    evaluation: Evaluation | None = None
    paper: dict[str, Any] | None = None
    """Numbers of the paper for models of this kind, as the paper gives them; null where it has none."""
    family: list[Member] = []
    engines: list[Engine]
    code: Code
    machine: Machine
    licence: str
    """Of the release, a Hub licence id."""
    limitations: list[str]
    """Found in this run, in sentences."""
    example: Example | None = None
    changelog: list[Change] = Field(min_length=1)
    """Oldest first, this release last."""

    def to_json(self) -> str:
        """Indented JSON with a final newline; the same facts give the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.split("/", 1)[1]

    @property
    def own(self) -> Stage:
        """The stage that made the released model."""
        return self.chain[-1]


class Pool(Fact):
    """One pool of a released data set."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    rows: int
    images: int
    """Different pictures that its rows show."""
    demonstrations: int
    """Rows with a response."""
    sources: dict[str, int]
    """Rows by where they come from."""
    held_out: bool
    """No stage trains on it."""
    hash: str = Field(pattern=HASH)
    """sha256 of the pool's rows as the run has them."""


class DatasetFacts(Fact):
    """One release of a run's data."""

    format: Literal[1] = 1
    repo: str = Field(pattern=REPO)
    tag: str = Field(pattern=TAG)
    created: str
    run: str
    seed: int
    recipe: Recipe
    data: Data
    pools: list[Pool] = Field(min_length=1)
    quality: dict[str, dict[str, float]]
    """By kind of demonstrations: `rows`, and shares in [0, 1] of right ones and of each kind of mistake."""
    models: list[Member] = []
    """Checkpoints that were trained on it."""
    code: Code
    licence: str
    changelog: list[Change] = Field(min_length=1)

    def to_json(self) -> str:
        """Indented JSON with a final newline; the same facts give the same bytes."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.split("/", 1)[1]
