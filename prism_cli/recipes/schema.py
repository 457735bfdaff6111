"""What a recipe is: a world of data, a first policy, stages, and arms made of stages.

Every part is typed by the settings class of the engine that runs it, so a recipe is checked in full before anything
is launched. `load.py` reads recipes from YAML, with inheritance and profiles; this module knows nothing of files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from benchmarks.digits.settings import DigitsWorld, TinyModel
from benchmarks.suites import ProtocolName
from benchmarks.suites import names as suite_names
from integrations.alignment.settings import AlignSettings, DiscriminatorSettings
from integrations.contract import Settings
from integrations.llamafactory.settings import SftSettings
from integrations.presets import PresetSettings
from integrations.verl.settings import RlvrSettings

FORMAT = 1
"""The newest recipe format that this prism reads."""

RESERVED_ARMS = ("all", "data", "eval", "lock", "plan", "release", "report", "shared")
RESERVED_STAGES = ("all", "data", "init")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class FilesWorld(Settings):
    """Data pools of your own, in one folder."""

    kind: Literal["files"] = "files"
    """Names the world's type."""
    path: str = Field(min_length=1)
    """Folder with one `<pool>.jsonl` per pool, beside the images that their rows name, or one `<pool>.parquet` in the
    published form, with chat prompts and the images inside. A relative path starts at the recipe file's folder."""
    pools: list[str] = Field(min_length=1)
    """Names of the pools in that folder which stages and evaluation may use."""


class HubModel(Settings):
    """A published checkpoint as the first policy."""

    kind: Literal["hub"] = "hub"
    """Names the model's type."""
    repo: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    """Repository on the Hugging Face Hub, `owner/name`. Give this or `path`."""
    path: str | None = Field(default=None, min_length=1)
    """Folder with a checkpoint in Hugging Face form. A relative path starts at the recipe file's folder."""
    revision: str | None = Field(default=None, min_length=1)
    """Commit, tag or branch of `repo`; null takes the main branch's newest commit, which may change between runs."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of `repo` and `path`")
        if self.path is not None and self.revision is not None:
            raise ValueError("`revision` belongs to `repo`; a folder has no revision, remove it")
        return self


class Arm(Settings):
    """One way from the first policy to a trained one; arms are compared with each other."""

    stages: list[str] = Field(min_length=1)
    """Names of the recipe's stages, in the order they run; each trains the policy that the one before left. A stage
    that begins several arms with equal settings runs once and is shared."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Fields that differ in this arm's copy of a stage, e.g. `{sft.data: [sft, teacher]}`."""


class Evaluation(Settings):
    """How the result of each training stage is measured on pictures that it never saw."""

    suite: str | None = None
    """Suite that is asked after each stage; null: none while training (`prism eval` asks later)."""
    pool: str = "test"
    """Pool with the held-out items."""
    protocols: list[ProtocolName] = Field(default=["greedy", "sample"], min_length=1)
    """`greedy`: the likeliest token each time, which hides errors made at random. `sample`: one draw at temperature 1,
    all tokens allowed. `paper`: temperature 1, top-p 0.7."""
    limit: int | None = Field(default=None, ge=1)
    """Items evaluated, from the start of the pool; null: all. Fewer widen the intervals."""
    eval_every: int | None = Field(default=None, ge=1)
    """Evaluate every this many checkpoints of a stage while it trains, greedily, and warn when something falls by more
    than chance; null: none. Costs a server and a harness beside the training each time; on GPUs see `eval_gpu`."""
    eval_stages: list[Literal["sft", "align", "rlvr"]] = Field(default=["align", "rlvr"], min_length=1)
    """Kinds of stages whose checkpoints are evaluated."""
    eval_pool: str = "validation"
    """Pool for it. Neither trained on nor reported: a checkpoint chosen by the items that it is reported on would look
    better than it is."""
    eval_items: int = Field(default=200, ge=10)
    """Items of that pool, from its start. Of 200 a right share of 60% is known to about 7 points, so among checkpoints
    that are closer than that the choice is luck."""
    eval_keep: Literal["last", "best"] = "last"
    """The checkpoint that becomes the stage's result: the `last` one, or of those evaluated the one with the `best`
    share of right answers (of equals the later)."""
    eval_gpu: int | None = Field(default=None, ge=0)
    """GPU, by its number, that these evaluations have to themselves; keep it from the training with
    CUDA_VISIBLE_DEVICES. Null: where there are GPUs they wait for the end of the training, so that they never take its
    memory; then nothing is warned of early."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest response in tokens, null: the suite's own limits. A longer one is cut and counted as truncated."""
    batch: int = Field(default=64, ge=1)
    """Items asked at the same time. Changes speed and memory only."""

    @field_validator("protocols")
    @classmethod
    def _once(cls, protocols: list[str]) -> list[str]:
        if len({*protocols}) != len(protocols):
            raise ValueError("names a protocol twice, keep one of them")
        return protocols

    @field_validator("suite")
    @classmethod
    def _known(cls, suite: str | None) -> str | None:
        if suite is not None and suite not in suite_names():
            raise ValueError(f"there is no suite `{suite}`{_meant(suite, suite_names())}")
        return suite


class MachineUse(Settings):
    """How much of the machine a run takes."""

    jobs: int = Field(default=1, ge=1)
    """Stages that run at the same time where the arms allow it. Each loads an engine and a model of its own; on GPUs
    they run one after the other, for each takes all of them."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads per stage; null: the cores divided by `jobs`. Results on CPU repeat bit for bit only with the same
    figure."""
    ray_address: str | None = None
    """Address of a running Ray cluster for RLVR, e.g. `10.0.0.1:6379`; `--ray-address` sets it. Every node needs verl's
    environment (`prism env build verl`) at the same path and sees the run's folder; start Ray with that environment's
    `ray`. Null: RLVR starts Ray on this machine alone."""
    nodes: int = Field(default=1, ge=1)
    """Nodes of that cluster that RLVR uses, each with as many GPUs as this machine."""

    @model_validator(mode="after")
    def _several_nodes_are_a_cluster(self) -> Self:
        if self.nodes > 1 and self.ray_address is None:
            raise ValueError(f"nodes is {self.nodes}: give the `ray_address` of the cluster that they form")
        return self


class Tracking(Settings):
    """Who hears of a run while it works. Changes no result."""

    to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """Where every stage's figures go, step by step; `--track` sets it. `tensorboard` and `trackio` write into the run's
    `tracking` folder (trackio into TRACKIO_DIR where that is set), `wandb` sends them with your own login. Figures
    only: no settings, paths, host or user names."""
    project: str = Field(default="prism", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    """Project of the tracker."""
    notify: list[Literal["done", "failed", "alarm"]] = Field(default=["done", "failed", "alarm"])
    """What the webhook is told whose address the environment variable PRISM_WEBHOOK holds; without one, nothing."""


Stage = Annotated[SftSettings | DiscriminatorSettings | AlignSettings | RlvrSettings, Field(discriminator="kind")]


class Recipe(Settings):
    """A complete recipe: everything that decides a run's result, apart from its seed."""

    format: int = Field(default=FORMAT, ge=1)
    """Version of the recipe's form. A newer one than this prism knows is refused."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")
    """Short name for tables and run folders: letters, digits, dots, dashes and underscores."""
    description: str = ""
    """What the recipe is for, in a sentence or two."""
    extends: str | None = None
    """Recipe that this one changes: a builtin name, or a file beside this one. Mappings are merged, lists and values
    replaced; null removes an inherited stage, arm or profile."""
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Named changes, each a partial recipe that `--profile` lays over this one."""
    world: Annotated[DigitsWorld | FilesWorld, Field(discriminator="kind")]
    """Where the data pools come from: generated (`digits`) or a folder of your own (`files`)."""
    model: Annotated[TinyModel | HubModel, Field(discriminator="kind")]
    """The first policy: a tiny Qwen3-VL with random weights (`tiny-qwen3-vl`) or a published checkpoint (`hub`). Its
    image processor decides for every engine how large images are seen."""
    stages: dict[str, Stage] = Field(min_length=1)
    """The stages that arms are made of, by name."""
    arms: dict[str, Arm] = Field(min_length=1)
    """The ways through the stages that are trained and compared, by name."""
    budget: Literal["steps", "tokens"] = "steps"
    """What makes arms comparable. `steps`: each arm's RLVR is longer by the most alignment steps of any arm less its
    own, as in the paper. `tokens`: each arm without alignment trains RLVR until it has generated as many tokens as the
    first arm with alignment did in all its stages. The discriminator's warm-up counts as tokens, not as steps."""
    evaluation: Evaluation = Evaluation()
    """How results are measured."""
    machine: MachineUse = MachineUse()
    """How much of the machine a run takes."""
    tracking: Tracking = Tracking()
    """Who hears of the run while it works."""

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the data pools that the world makes."""
        return tuple(self.world.pools)

    def stage_of(self, arm: str, stage: str) -> SftSettings | DiscriminatorSettings | AlignSettings | RlvrSettings:
        """The stage's settings in this arm: the recipe's own with the arm's `set` laid over them.

        Raises:
            KeyError: no such arm or stage.
        """
        settings = self.stages[stage]
        changes = {
            field.split(".", 1)[1]: value for field, value in self.arms[arm].set.items() if _stage(field) == stage
        }
        if not changes:
            return settings
        data = settings.model_dump()
        if isinstance(settings, PresetSettings) and settings.PRESET in changes:
            # What the field brings holds for what the recipe does not give.
            given = settings.model_fields_set
            data = {name: value for name, value in data.items() if name in given or isinstance(value, dict)}
        for path, value in changes.items():
            _put(data, path.split("."), value)
        return type(settings).model_validate(data)

    @model_validator(mode="after")
    def _names(self) -> Self:
        for kind, names, reserved in (("stages", self.stages, RESERVED_STAGES), ("arms", self.arms, RESERVED_ARMS)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ValueError(f"{kind}.{name}: use lower-case letters, digits, dashes and underscores")
                if name in reserved:
                    raise ValueError(f"{kind}.{name}: this name is taken by the run's own folders, choose another")
        for name in self.arms:
            if name in self.stages:
                raise ValueError(f"arms.{name}: a stage has this name too, and `--stage {name}` must mean one of them")
        return self

    @model_validator(mode="after")
    def _arms_can_run(self) -> Self:
        for name, arm in self.arms.items():
            for stage in arm.stages:
                if stage not in self.stages:
                    raise ValueError(f"arms.{name}.stages: no stage is called `{stage}`{_meant(stage, self.stages)}")
            twice = next((s for s in arm.stages if arm.stages.count(s) > 1), None)
            if twice is not None:
                raise ValueError(f"arms.{name}.stages: `{twice}` occurs twice; give the second one a name of its own")
            self._check_order(name)
            self._check_changes(name)
        return self

    def _check_order(self, arm: str) -> None:
        kinds: list[str] = []
        for stage in self.arms[arm].stages:
            kind = self.stages[stage].kind
            if kind == "align" and "discriminator" not in kinds:
                raise ValueError(f"arms.{arm}.stages: `{stage}` aligns, so put a discriminator stage before it")
            if kind != "sft" and not kinds and isinstance(self.model, TinyModel):
                raise ValueError(
                    f"arms.{arm}.stages: `{stage}` learns from the policy's own responses, and the first policy has "
                    "random weights; put an sft stage before it"
                )
            kinds.append(kind)
        if kinds[-1] == "discriminator":
            raise ValueError(f"arms.{arm}.stages: ends with a discriminator that nothing uses; add an align stage")

    def _check_changes(self, arm: str) -> None:
        for path in self.arms[arm].set:
            stage, _, field = path.partition(".")
            where = f"arms.{arm}.set.{path}"
            if stage not in self.arms[arm].stages or not field:
                known = [f"{s}.<field>" for s in self.arms[arm].stages]
                raise ValueError(f"{where}: not a field of this arm's stages; write one of {', '.join(known)}")
            if field == "kind":
                raise ValueError(f"{where}: an arm cannot change what a stage is; add a stage of its own")
            names = [*type(self.stages[stage]).model_fields]
            if field.split(".")[0] not in names:
                raise ValueError(f"{where}: stage `{stage}` has no field `{field}`{_meant(field, names)}")
        for stage in dict.fromkeys(_stage(path) for path in self.arms[arm].set):
            try:
                self.stage_of(arm, stage)
            except ValueError as error:
                raise ValueError(_inside(f"arms.{arm}.set.{stage}", error)) from error

    @model_validator(mode="after")
    def _presets_written_out(self) -> Self:
        """Give an arm that changes a stage's mode or algorithm all that this changes: written out in full, where every
        field of the stage is given, the recipe still means the same."""
        for name, arm in self.arms.items():
            for path in list(arm.set):
                stage, field = _stage(path), path.partition(".")[2]
                if getattr(self.stages[stage], "PRESET", None) != field:
                    continue
                plain = self.stages[stage].model_dump()
                for field, value in self.stage_of(name, stage).model_dump().items():
                    if value != plain[field] and not isinstance(value, dict):
                        arm.set.setdefault(f"{stage}.{field}", value)
        return self

    @model_validator(mode="after")
    def _pools_exist(self) -> Self:
        used = {f"stages.{name}": stage for name, stage in self.stages.items()}
        for arm, parts in self.arms.items():
            used.update({f"arms.{arm}.set.{name}": self.stage_of(arm, name) for name in parts.stages})
        for where, stage in used.items():
            for field in ("data", "teacher"):
                value = getattr(stage, field, ())
                for pool in [value] if isinstance(value, str) else value:
                    self._check_pool(f"{where}.{field}", pool)
        self._check_pool("evaluation.pool", self.evaluation.pool)
        if self.evaluation.eval_every is not None:
            self._check_held_out(self.evaluation.eval_pool, used)
        return self

    def _check_held_out(self, pool: str, used: Mapping[str, Any]) -> None:
        where = "evaluation.eval_pool"
        self._check_pool(where, pool)
        if pool == self.evaluation.pool:
            raise ValueError(f"{where}: results are reported on `{pool}`; name another pool, kept for choosing")
        for name, stage in used.items():
            if pool in getattr(stage, "data", ()) or pool == getattr(stage, "teacher", None):
                raise ValueError(f"{where}: {name} trains on `{pool}`; name a pool that no stage trains on")

    def _check_pool(self, where: str, pool: str) -> None:
        if pool not in self.pools:
            raise ValueError(f"{where}: the world makes no pool `{pool}`; it makes {', '.join(self.pools)}")

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        for arm, parts in self.arms.items():
            held_out: int | None = None
            for name in parts.stages:
                stage = self.stage_of(arm, name)
                if stage.kind == "discriminator":
                    held_out = stage.held_out
                elif stage.kind == "align" and held_out is not None and stage.held_out > held_out:
                    raise ValueError(
                        f"stages.{name}.held_out: {stage.held_out} prompts, but the discriminator before it held out "
                        f"{held_out} and has trained on the others; use {held_out} or fewer"
                    )
        return self

    @model_validator(mode="after")
    def _arms_differ(self) -> Self:
        seen: dict[str, str] = {}
        for name, arm in self.arms.items():
            content = repr([(stage, self.stage_of(name, stage)) for stage in arm.stages])
            if content in seen:
                raise ValueError(f"arms.{name}: the same as arms.{seen[content]}; change it or remove it")
            seen[content] = name
        return self


def _inside(where: str, error: ValueError) -> str:
    """The first complaint about a part of the recipe, `field: what`."""
    if not isinstance(error, ValidationError):
        return f"{where}.{error}"
    first = error.errors()[0]
    return f"{'.'.join([where, *(str(part) for part in first['loc'])])}: {plain_message(first)}"


def plain_message(record: Mapping[str, Any]) -> str:
    """One of pydantic's error records as a sentence that names the value where it is short."""
    if record["type"] == "extra_forbidden":
        return "there is no such field"
    if record["type"] == "missing":
        return "missing"
    message: str = record["msg"].removeprefix("Value error, ")
    if record["type"] == "value_error":
        return message
    message = message.removeprefix("Input ").partition(", unable to parse")[0]
    value = record["input"]
    shown = (
        repr(value) if isinstance(value, str | int | float | bool | None) else f"a {_WORDS.get(type(value), 'value')}"
    )
    return f"{message[:1].lower()}{message[1:]}, not {shown[:60]}"


_WORDS: dict[type, str] = {dict: "mapping", list: "list"}


def _stage(path: str) -> str:
    return path.partition(".")[0]


def _put(data: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = data.get(part)
        if not isinstance(inner, dict):
            raise ValueError(f"{'.'.join(path)}: `{part}` has no fields")
        data = inner
    data[path[-1]] = value


def _meant(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a complaint about an unknown word."""
    known = [*known]
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean `{close[0]}`?" if close else f"; there is {', '.join(known)}"
