"""From a recipe to a graph of work, without touching the disk.

A node is one piece of work with a folder of its own in the run: the data, the first policy, a stage of an arm, or the
evaluation of a stage's result. A stage that several arms share (same settings, same parents) becomes one node under
`shared/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from integrations.common.files import hash_json
from integrations.errors import BadInput

DATA = "data"
MODEL = "shared/init"
SHARED = "shared"


@dataclass(frozen=True)
class Node:
    """One piece of work.

    `parents` maps a role (`policy`, `discriminator`) to the name of the node whose model plays it.
    """

    name: str
    kind: str
    """data, model, sft, discriminator, align, rlvr, or evaluate."""
    settings: Any
    parents: Mapping[str, str] = field(default_factory=dict)
    arms: tuple[str, ...] = ()
    extra_steps: int = 0
    """RLVR steps that the budget rule adds to the settings' own (`budget: steps`)."""
    token_budget_of: tuple[str, ...] = ()
    """Nodes whose generated tokens this one may spend in all (`budget: tokens`); its steps follow from that."""
    watched: Any = None
    """The recipe's `evaluation` where this stage's checkpoints are evaluated while it trains."""

    @property
    def stage(self) -> str:
        return self.name.rsplit("/", 1)[-1]

    @property
    def steps(self) -> int | None:
        """Optimizer steps where they differ from the settings' own; None where they do not (or depend on tokens)."""
        return self.settings.steps + self.extra_steps if self.extra_steps else None

    @property
    def requires(self) -> tuple[str, ...]:
        """Nodes that must be finished before this one starts."""
        first = () if self.kind == DATA else (DATA,)
        return tuple(dict.fromkeys((*first, *self.parents.values(), *self.token_budget_of)))


@dataclass(frozen=True)
class Plan:
    """Nodes in an order in which they can be run, and each arm's stages in order."""

    nodes: Mapping[str, Node]
    arms: Mapping[str, tuple[str, ...]]

    def with_requirements(self, wanted: list[str]) -> Plan:
        """The part of the plan that is needed for these nodes."""
        needed: set[str] = set()
        queue = list(wanted)
        while queue:
            name = queue.pop()
            if name not in needed:
                needed.add(name)
                queue.extend(self.nodes[name].requires)
        return Plan({name: node for name, node in self.nodes.items() if name in needed}, self.arms)


def make_plan(recipe: Any) -> Plan:
    """The whole recipe as a graph, evaluations last in each chain.

    Args:
        recipe: a `prism_cli.recipes.schema.Recipe`.
    """
    chains = {arm: _chain(recipe, arm) for arm in recipe.arms}
    signatures: dict[str, list[str]] = {}
    for arm, stages in chains.items():
        for stage in stages:
            signatures.setdefault(stage.signature, []).append(arm)
    nodes: dict[str, Node] = {
        DATA: Node(DATA, DATA, recipe.world),
        MODEL: Node(MODEL, "model", recipe.model),
    }
    arms = {}
    for arm, stages in chains.items():
        names: list[str] = []
        for stage in stages:
            users = signatures[stage.signature]
            name = f"{SHARED if len(users) > 1 else arm}/{stage.name}"
            names.append(name)
            if name not in nodes:
                nodes[name] = _node(name, stage, recipe, names, tuple(users))
        arms[arm] = tuple(names)
    if recipe.budget == "tokens":
        _spend_tokens(nodes, arms)
    for name, node in [*nodes.items()]:
        if node.kind in ("sft", "align", "rlvr") and recipe.evaluation.suite is not None:
            nodes[f"eval/{name}"] = Node(f"eval/{name}", "evaluate", recipe.evaluation, {"policy": name}, node.arms)
    return Plan(_in_order(nodes), arms)


@dataclass(frozen=True)
class _Stage:
    """A stage of one arm, with everything that decides whether two arms may share it."""

    name: str
    settings: Any
    extra_steps: int
    signature: str


def _chain(recipe: Any, arm: str) -> list[_Stage]:
    stages = []
    before = ""
    for name in recipe.arms[arm].stages:
        settings = recipe.stage_of(arm, name)
        extra = _extra_steps(recipe, arm) if settings.kind == "rlvr" and recipe.budget == "steps" else 0
        before = hash_json([before, name, settings.model_dump(mode="json"), extra])
        stages.append(_Stage(name, settings, extra, before))
    return stages


def _align_steps(recipe: Any, arm: str) -> int:
    stages = (recipe.stage_of(arm, name) for name in recipe.arms[arm].stages)
    return sum(stage.steps for stage in stages if stage.kind == "align")


def _extra_steps(recipe: Any, arm: str) -> int:
    """The alignment steps of the arm that aligns longest, less this arm's own (the paper's budget rule)."""
    return max(_align_steps(recipe, other) for other in recipe.arms) - _align_steps(recipe, arm)


def _node(name: str, stage: _Stage, recipe: Any, names: list[str], users: tuple[str, ...]) -> Node:
    """`names` are the arm's node names so far, this one last."""
    kinds = {n: recipe.stages[n.rsplit("/", 1)[-1]].kind for n in names[:-1]}
    policies = [n for n, kind in kinds.items() if kind != "discriminator"]
    parents = {"policy": policies[-1] if policies else MODEL}
    if stage.settings.kind == "align":
        parents["discriminator"] = [n for n, kind in kinds.items() if kind == "discriminator"][-1]
    kind, evaluation = stage.settings.kind, recipe.evaluation
    watched = evaluation if evaluation.eval_every is not None and kind in evaluation.eval_stages else None
    return Node(name, kind, stage.settings, parents, users, extra_steps=stage.extra_steps, watched=watched)


def _spend_tokens(nodes: dict[str, Node], arms: Mapping[str, tuple[str, ...]]) -> None:
    """Give each RLVR node of an arm without alignment the tokens that the aligned arm generated."""
    aligned = [arm for arm, names in arms.items() if any(nodes[n].kind == "align" for n in names)]
    if not aligned:
        return
    spenders = tuple(n for n in arms[aligned[0]] if nodes[n].kind in ("discriminator", "align", "rlvr"))
    for arm, names in arms.items():
        for name in names:
            node = nodes[name]
            if arm not in aligned and node.kind == "rlvr":
                nodes[name] = replace(node, extra_steps=0, token_budget_of=spenders)


def _in_order(nodes: dict[str, Node]) -> dict[str, Node]:
    ordered: dict[str, Node] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for required in nodes[name].requires:
                visit(required)
            ordered[name] = nodes[name]

    for name in nodes:
        visit(name)
    return ordered


def select(plan: Plan, stage: str, arm: str | None, parent: str | None) -> tuple[Plan, list[str]]:
    """The part of the plan that `--stage`, `--arm` and `--parent` ask for.

    Returns:
        The part, and the names of the nodes in it that must already be finished (empty for whole arms).

    Raises:
        BadInput: no such stage, arm or parent.
    """
    if stage == "all" or stage in plan.arms:
        if parent is not None or (arm is not None and stage != "all"):
            raise BadInput("--parent and --arm go with a single stage", "e.g. --stage rlvr --arm prism --parent sft")
        chosen = [*plan.arms] if stage == "all" and arm is None else [_known_arm(plan, arm or stage)]
        wanted = [n for a in chosen for n in plan.arms[a]]
        return plan.with_requirements(_with_evaluations(plan, wanted)), []
    arm = _arm_of(plan, stage, arm)
    name = _find(plan, stage, arm)
    if parent is not None:
        plan, name = _reparent(plan, name, arm, _find(plan, parent, arm))
    before = [n for n in plan.nodes[name].requires if plan.nodes[n].kind not in (DATA, "model")]
    part = plan.with_requirements(_with_evaluations(plan, [name]))
    if plan.nodes[name].kind == "sft":
        return part, []  # what SFT starts from has no `--stage` of its own, so it comes along
    return part, before


def _with_evaluations(plan: Plan, names: list[str]) -> list[str]:
    return [*names, *(f"eval/{n}" for n in names if f"eval/{n}" in plan.nodes)]


def _known_arm(plan: Plan, arm: str) -> str:
    if arm not in plan.arms:
        raise BadInput(f"the recipe has no arm `{arm}`", f"its arms: {', '.join(plan.arms)}")
    return arm


def _arm_of(plan: Plan, stage: str, arm: str | None) -> str:
    if arm is not None:
        return _known_arm(plan, arm)
    holders = [a for a, names in plan.arms.items() if any(_matches(plan, n, stage) for n in names)]
    if not holders:
        known = dict.fromkeys(n.rsplit("/", 1)[-1] for names in plan.arms.values() for n in names)
        raise BadInput(f"the recipe has no stage `{stage}`", f"use one of: all, {', '.join([*plan.arms, *known])}")
    return holders[0]


def _matches(plan: Plan, name: str, stage: str) -> bool:
    return stage in (name, plan.nodes[name].stage)


def _find(plan: Plan, stage: str, arm: str) -> str:
    for name in plan.arms[arm]:
        if _matches(plan, name, stage):
            return name
    for name in plan.nodes:
        if name == stage and plan.nodes[name].kind != "evaluate":
            return name
    have = ", ".join(n.rsplit("/", 1)[-1] for n in plan.arms[arm])
    raise BadInput(f"arm `{arm}` has no stage `{stage}`", f"its stages: {have}")


def _reparent(plan: Plan, name: str, arm: str, parent: str) -> tuple[Plan, str]:
    """The same stage started from another policy, as a node of its own beside the arm's."""
    node = plan.nodes[name]
    if plan.nodes[parent].kind == "discriminator":
        raise BadInput(f"`{parent}` is a discriminator, not a policy", "give --parent a stage that trains the policy")
    if node.parents["policy"] == parent:
        return plan, name
    new = f"{arm}/{node.stage}-from-{plan.nodes[parent].stage}"
    nodes = dict(plan.nodes)
    parents = {**node.parents, "policy": parent}
    nodes[new] = replace(node, name=new, parents=parents, arms=(arm,), token_budget_of=())
    if f"eval/{name}" in nodes:
        settings = nodes[f"eval/{name}"].settings
        nodes[f"eval/{new}"] = Node(f"eval/{new}", "evaluate", settings, {"policy": new}, (arm,))
    return Plan(nodes, plan.arms), new
