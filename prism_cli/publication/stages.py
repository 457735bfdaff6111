"""Which finished stages of a run a release takes, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from integrations.errors import BadInput
from prism_cli.runs.store import RunStore
from release import names

TREATED, BASELINE = "prism", "baseline"
KINDS = ("sft", "discriminator", "align", "rlvr")


@dataclass(frozen=True)
class Chosen:
    """One finished stage that is to be released."""

    stage: str
    """Its name in the run, e.g. `prism/align`."""
    member: names.Member
    """What its repository is named after."""


def stages_to_release(run: RunStore, arm: str | None, stage: str) -> list[Chosen]:
    """The finished stages that `--arm` and `--stage` mean.

    Args:
        arm: an arm of the run; None: `prism`, and for `all` also the baseline.
        stage: `sft`, `discriminator`, `align` or `rlvr`: the arm's last stage of that kind; `all`: the last of every
            kind, each once.

    Raises:
        BadInput: there is no such arm or stage, or none of them is finished.
    """
    arms = run.manifest().get("arms", {})
    if not arms or (arm is not None and arm not in arms):
        raise BadInput(f"run `{run.name}` has no arm `{arm or TREATED}`", f"it has {', '.join(arms) or 'none'}")
    if stage not in (*KINDS, "all"):
        raise BadInput(f"`{stage}` is no kind of stage", f"choose one of: {', '.join(KINDS)}, all")
    first = arm or (TREATED if TREATED in arms else next(iter(arms)))
    wanted = [first, BASELINE] if stage == "all" and arm is None and BASELINE in arms else [first]
    kinds = KINDS if stage == "all" else (stage,)
    found: dict[str, Chosen] = {}
    for name in dict.fromkeys(wanted):
        for kind in kinds:
            chosen = _last(run, name, arms[name], kind)
            if chosen is not None:
                found.setdefault(chosen.stage, chosen)
    if not found:
        raise BadInput(f"arm `{first}` of run `{run.name}` has no finished stage `{stage}`", "train it: prism train")
    return list(found.values())


def kind_of(run: RunStore, stage: str) -> str:
    """The kind of a stage, finished or not; empty where nothing is known of it."""
    record = run.stage(stage).done() or run.manifest().get("stages", {}).get(stage, {})
    return str(record.get("kind", ""))


def algorithm_of(run: RunStore, stage: str) -> str | None:
    """The algorithm of an RLVR stage, as it ran."""
    algorithm = inputs_of(run, stage).get("settings", {}).get("algorithm")
    return str(algorithm) if algorithm else None


def inputs_of(run: RunStore, stage: str) -> dict[str, Any]:
    """What a stage was made from."""
    from integrations.common.files import read_json

    value = read_json(run.root / stage / "inputs.json")
    return value if isinstance(value, dict) else {}


def titles(run: RunStore) -> dict[str, str]:
    """Names for tables of every stage of every arm, e.g. `SFT → PRISM → GRPO`; the arm in brackets where two agree."""
    found: dict[str, str] = {}
    arms = run.manifest().get("arms", {})
    for stages in arms.values():
        for place, name in enumerate(stages):
            found.setdefault(name, _title(run, stages, place))
    shared = {title for title in found.values() if list(found.values()).count(title) > 1}
    return {
        name: f"{title} ({name.split('/', 1)[0]})" if title in shared and name.split("/", 1)[0] != "shared" else title
        for name, title in found.items()
    }


def _title(run: RunStore, stages: list[str], place: int) -> str:
    """What was done to the policy up to a stage; SFT before the last one is what the base is made by."""
    kinds = [kind_of(run, name) for name in stages]
    last_sft = max((index for index, kind in enumerate(kinds) if kind == "sft"), default=-1)
    if place < last_sft:
        return stages[place].rsplit("/", 1)[-1].capitalize()
    words = []
    for index in range(place + 1):
        if kinds[index] == "sft" and index == last_sft:
            words.append("SFT")
        elif kinds[index] == "align":
            words.append("PRISM")
        elif kinds[index] == "rlvr":
            words.append((algorithm_of(run, stages[index]) or "rlvr").upper())
        elif kinds[index] == "discriminator" and index == place:
            words.append("discriminator")
    return " → ".join(words)


def _last(run: RunStore, arm: str, stages: list[str], kind: str) -> Chosen | None:
    """The arm's last stage of a kind where it is finished."""
    places = [place for place, name in enumerate(stages) if kind_of(run, name) == kind]
    if not places or run.stage(stages[places[-1]]).done() is None:
        return None
    chain = stages[: places[-1] + 1]
    algorithms = [found for name in chain if (found := algorithm_of(run, name))]
    return Chosen(
        chain[-1],
        names.Member(
            arm=arm,
            stage=chain[-1].rsplit("/", 1)[-1],
            kinds=tuple(kind_of(run, name) for name in chain),
            algorithm=algorithms[-1] if algorithms else "grpo",
        ),
    )
