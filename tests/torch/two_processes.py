"""What `test_distributed` does in one process and in two: learning from one step's prompts, however they are dealt out.

Five prompts, so that one process has two and the other three; the first two have no image. In float64, where the
order of sums hardly matters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.forward import batching
from integrations.alignment.forward.model import load_policy, load_processor
from integrations.alignment.game import advantages as adv
from integrations.alignment.game import contest
from integrations.alignment.game.policy_step import PolicyStep
from integrations.alignment.rollouts.rollout import Rollouts, Sampling
from integrations.alignment.training import checkpoints, lora, sharding
from integrations.alignment.training.players import Player
from integrations.alignment.training.world import Processes, World
from integrations.common.rows import Row, read_rows
from tests.torch.conftest import response
from tests.torch.test_discriminator import build
from tests.torch.test_game import SETTINGS, written

ORDER = (0, 3, 1, 2, 4)
"""Rows by number; 0 and 3 have no image."""
VALID = {"uneven": (2, 0, 3, 0, 1), "none in one": (0, 0, 3, 0, 1), "one in all": (0, 1, 0, 0, 0), "none": (0,) * 5}
"""Valid responses to each prompt."""
PARTS = {"fused": (8, 0), "fused in one": (2, 0), "micro": (1, 2)}
"""Prompts and branches whose graph is held at once."""
LEARNING = (
    ("uneven", "fused"),
    ("uneven", "fused in one"),
    ("uneven", "micro"),
    ("none in one", "fused"),
    ("none in one", "micro"),
    ("one in all", "micro"),
)
"""Cases in which the discriminator learns."""


class Setting:
    """The tiny models and data of one process, made anew for each case."""

    def __init__(self, world: World, folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        self.world, self.model, self.device, self.dtype = world, folder / "model", device, dtype
        self.encoder = Encoder(load_processor(self.model), folder / "data")
        self.splitter = Splitter(self.encoder.tokenizer)
        rows = list(read_rows(folder / "data" / "teacher.jsonl"))
        self.rows: list[Row] = [rows[index] for index in ORDER]

    def policy(self) -> Any:
        return load_policy(self.model, self.device, self.dtype)

    def player(self, parameters: Any, optimizer: str = "sgd", **formats: Any) -> Player:
        options = {"learning_rate": 1e-2, "weight_decay": 0.0, "warmup_steps": 0, "gradient_clip": 1e9} | formats
        player = Player("model", parameters, world=self.world, **options)
        if optimizer == "sgd":
            player.optimizer = torch.optim.SGD(player.parts.values(), lr=1e-2)  # type: ignore[assignment]
        return player


def learnt(player: Player) -> dict[str, dict[str, torch.Tensor]]:
    """The gradient of the last step and the weights after it, whole."""
    gradient = {
        name: sharding.full(sharding.like(value, player.parts[name].grad))
        for name, value in player.parameters.items()
        if player.parts[name].grad is not None
    }
    return {"gradient": gradient, "weights": weights(player)}


def weights(player: Player) -> dict[str, torch.Tensor]:
    return {name: sharding.full(value).clone() for name, value in player.model.items()}


def discriminate(setting: Setting, valid: Sequence[int], parts: tuple[int, int], **words: Any) -> dict[str, Any]:
    """One step of the discriminator."""
    world = setting.world
    discriminator = build(setting.policy(), setting.encoder, **words)
    sharding.shard(discriminator.backbone, world)
    player = setting.player(discriminator.named_parameters())
    before = weights(player)
    mine = world.mine(list(enumerate(setting.rows)))
    prompts = [setting.encoder.encode(row) for _, row in mine]
    teachers = [setting.splitter.split(row["response"]) for _, row in mine]
    texts = [[response(f"{index} {one}", "so " * (one + 1), "7") for one in range(valid[index])] for index, _ in mine]
    segments = [[setting.splitter.split(text) for text in group] for group in texts]
    batch = contest.pair_up(prompts, teachers, segments)
    objective = contest.Objective(1e-3, 0.01, *parts)
    scores, metrics = contest.learn(discriminator, player, batch, objective, 0, world)
    whole = contest.join(world.gather(scores))
    found = {"scores": torch.from_numpy(np.concatenate([whole.teacher_2B, whole.student_2R], 1)), "metrics": metrics}
    return found | learnt(player) | {"before": before}


def act(
    setting: Setting, earned: Callable[[np.random.Generator], np.ndarray], again: bool = False, **change: Any
) -> dict[str, Any]:
    """One step of the policy, on three responses to each prompt; `again` computes layers twice, to save memory."""
    world, reference = setting.world, setting.policy()
    model = setting.policy()
    if again:
        batching.checkpoint_layers(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)  # apart from the reference
    sharding.shard(model, world)
    player = setting.player(model.named_parameters())
    before = weights(player)
    rng, count = np.random.default_rng(0), len(setting.rows)
    groups = [
        [written(setting.encoder, response(f"{rng.integers(9)} 4", "so " * int(rng.integers(1, 4)), "7"))] * 3
        for _ in range(count)
    ]
    share = world.mine(range(count))
    arrays = [earned(rng)[share] for _ in range(2)]
    advantages = adv.Advantages(*arrays, np.zeros_like(arrays[0]), 0, 0)
    settings = SimpleNamespace(**(SETTINGS | {"micro_prompts": 1} | change))
    session = SimpleNamespace(
        job=SimpleNamespace(settings=settings),
        world=world,
        policy=model,
        splitter=setting.splitter,
        banned_V=Rollouts(model, setting.encoder).banned,
    )
    step = PolicyStep(session, player, reference)  # type: ignore[arg-type]
    prompts = [setting.encoder.encode(row) for row in world.mine(setting.rows)]
    metrics = step.take(prompts, world.mine(groups), advantages, 0)
    return {"metrics": metrics} | learnt(player) | {"before": before}


def sample(setting: Setting) -> dict[str, Any]:
    """Responses of a policy that is taken apart; where the rows are dealt out, decoding lasts as long as it may."""
    model = sharding.shard(setting.policy(), setting.world)
    rollouts = Rollouts(model, setting.encoder)
    rows = setting.world.mine(setting.rows)
    groups = rollouts.sample(rows, 2, Sampling(1.0, 1.0, 12), lambda row, one: int(row["id"][4:]) * 10 + one, 4)
    shares = setting.world.gather([item.token_ids for group in groups for item in group])
    return {"responses": [ids for share in shares for ids in share]}


FORMATS: dict[str, dict[str, Any]] = {
    "8-bit moments": {"compute": "fp32", "masters": "split", "moments": "8bit", "lora": None},
    "bf16 as loaded": {"compute": "bf16", "masters": "split", "moments": "fp32", "lora": None},
    "adapters": {
        "compute": "bf16",
        "masters": "split",
        "moments": "fp32",
        "lora": SimpleNamespace(rank=4, alpha=8.0, targets=["q_proj", "down_proj"]),
    },
}


def resume(setting: Setting, folder: Path, formats: str | None = None) -> dict[str, Any]:
    """Two steps of AdamW in one go, and with a checkpoint in between."""
    world = setting.world

    def start() -> tuple[Any, Player]:
        if formats is None:
            model = sharding.shard(setting.policy(), world)
            return model, setting.player(model.named_parameters(), "adamw")
        precision = SimpleNamespace(**FORMATS[formats])
        model = load_policy(setting.model, dtype=torch.bfloat16 if formats == "bf16 as loaded" else torch.float32)
        adapted = lora.add(model, precision.lora, 0)
        sharding.shard(model, world, precision.compute)
        return model, setting.player(model.named_parameters(), "adamw", precision=precision, adapted=adapted)

    ends = []
    for stop in (False, True):
        model, player = start()
        for step in range(2):
            if stop and step == 1:
                state = {"policy": sharding.collect(player.weights(), world), "player": player.state()}
                checkpoints.save(folder, step, state, world=world)
                model, player = start()
                at, found = checkpoints.newest(folder, world) or (0, {})
                assert at == 1
                player.restore(found["player"], found["policy"])
            player.begin(step)
            sharding.run(model, backward, setting, model, step)
            player.finish(0.0)
        ends.append({name: value.clone() for name, value in player.weights()})
    return {
        "straight": ends[0],
        "resumed": ends[1],
        "start": {name: value.detach() for name, value in setting.policy().named_parameters()},
    }


def damaged(setting: Setting, folder: Path) -> dict[str, Any]:
    """Two checkpoints, of which the last process's file in the newer one is cut short."""
    world = setting.world
    for step in (1, 2):
        checkpoints.save(folder, step, {"policy": {"w": torch.ones(3)}, "rank": world.rank}, world=world)
    if world.rank == world.size - 1:
        last = sorted((folder / "step-000002").glob("state*.pt"))[-1]
        last.write_bytes(last.read_bytes()[:-10])
    world.wait()
    step, found = checkpoints.newest(folder, world) or (0, {})
    return {"step": step, "ranks": world.gather(found["rank"])}


def backward(setting: Setting, model: Any, step: int) -> None:
    """A gradient of any kind."""
    for value in model.parameters():
        if value.requires_grad:
            ((value.double() - 0.1).pow(2).sum() * (1 + step + setting.world.rank)).backward()


def play(world: World, folder: Path) -> dict[str, Any]:
    """Every case, in the same order in every process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    setting = Setting(world, folder)
    found: dict[str, Any] = {}
    for name, kind in (*LEARNING, ("none", "micro")):
        found[f"discriminator, {name}, {kind}"] = discriminate(setting, VALID[name], PARTS[kind])
    found["discriminator, heads, micro"] = discriminate(setting, VALID["uneven"], PARTS["micro"], score="head")
    found["discriminator, again"] = discriminate(setting, VALID["uneven"], PARTS["micro"])

    def some(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(5, 3))

    def in_one(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(5, 3)) * np.array([0, 0, 1, 0, 1])[:, None]

    def nowhere(rng: np.random.Generator) -> np.ndarray:
        return np.zeros((5, 3))

    found["policy, all"] = act(setting, some)
    found["policy, kl"] = act(setting, some, kl=0.5, micro_prompts=8)
    found["policy, layers twice"] = act(setting, some, again=True)
    found["policy, one process without advantage"] = act(setting, in_one)
    found["policy, nothing"] = act(setting, nowhere)
    found["sample"] = sample(setting)
    found["resume"] = resume(setting, folder / f"checkpoints-{world.size}")
    for name in FORMATS:
        found[f"resume, {name}"] = resume(setting, folder / f"{name}-{world.size}", name)
    found["damaged"] = damaged(setting, folder / f"damaged-{world.size}")
    return found


def play_on_gpus(world: World, folder: Path, device: str) -> dict[str, Any]:
    """A step of each player, in fp32."""
    setting = Setting(world, folder, device, torch.float32)

    def some(rng: np.random.Generator) -> np.ndarray:
        return rng.normal(size=(5, 3))

    return {
        "discriminator": discriminate(setting, VALID["uneven"], PARTS["micro"]),
        "discriminator, heads": discriminate(setting, VALID["uneven"], PARTS["fused in one"], score="head"),
        "policy": act(setting, some, kl=0.5),
        "policy, layers twice": act(setting, some, again=True),
    }


def process_on_gpu(rank: int, size: int, store: str, folder: Path, device: str) -> None:
    """One of several processes, each with a GPU of its own; the first writes what was found."""
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    world = Processes(device, dist.FileStore(store, size), rank, size)
    found = play_on_gpus(world, folder, device)
    if world.first:
        torch.save(found, folder / f"found-{size}.pt")
    world.close()


def process(rank: int, size: int, store: str, folder: Path) -> None:
    """One of several processes; the first writes what was found."""
    world = Processes("cpu", dist.FileStore(store, size), rank, size)
    found = play(world, folder)
    if world.first:
        torch.save(found, folder / f"found-{size}.pt")
    world.close()
    sys.stdout.flush()
