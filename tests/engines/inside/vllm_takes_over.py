"""vLLM beside a policy that changes: `python vllm_takes_over.py OUT.json MODEL POOL.jsonl ROLLOUT.json`.

Writes what was seen; ROLLOUT.json holds the recipe's `rollout` settings.
"""

import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.seeds import derive
from integrations.alignment.forward.model import banned_tokens, load_policy, load_processor
from integrations.alignment.forward.policy import response_log_probs
from integrations.alignment.rollouts.engines import Synced, open_sampler
from integrations.alignment.rollouts.rollout import Generation, Sampling
from integrations.alignment.rollouts.vllm_rollout import VllmEngine
from integrations.common.rows import Row, read_rows
from integrations.errors import PrismError

torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
out, model, pool, rollout = map(Path, sys.argv[1:])
settings = SimpleNamespace(
    rollout=SimpleNamespace(**json.loads(rollout.read_text())),
    precision=SimpleNamespace(compute="fp32"),
    max_prompt_tokens=416,
)
policy, processor = load_policy(model), load_processor(model)
encoder = Encoder(processor, pool.parent)
banned = banned_tokens(processor.tokenizer, policy.lm_head.out_features)
rows = list(islice(read_rows(pool), 6))
rows += [rows[0] | {"id": "no picture", "images": []}, rows[0] | {"id": "two", "images": rows[0]["images"] * 2}]
job: Any = SimpleNamespace(settings=settings, policy=model, device="cpu")
sampler = open_sampler(job, policy, encoder, rows, banned)
assert isinstance(sampler, Synced)
engine = sampler.engine
assert isinstance(engine, VllmEngine)


def stream(row: Row, sample: int) -> int:
    return derive("test", row["id"], sample)


def sampled(some: list[Row] = rows, sampling: Sampling | None = None) -> list[list[Generation]]:
    return sampler.sample(some, 4, sampling or Sampling(max_new_tokens=24), stream, 64)


def gap(groups: list[list[Generation]]) -> float:
    """Largest difference between the engine's log-probabilities and the trainer's."""
    which = [index for index, group in enumerate(groups) for _ in group]
    responses = [item for group in groups for item in group]
    ids = [item.token_ids for item in responses]
    theirs = torch.tensor([value for item in responses for value in item.log_probs or ()])
    with torch.no_grad():
        ours, _, mask = response_log_probs(policy, [encoder.encode(row) for row in rows], which, ids, banned)
    return float((ours[mask] - theirs).abs().max())


def change(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.02 * torch.randn(value.shape, generator=rng)


def told(action: Callable[[], object]) -> str:
    """What an action that must fail says."""
    try:
        action()
    except PrismError as error:
        return error.problem
    return "nothing"


def names(groups: list[list[Generation]]) -> list[list[list[int]]]:
    return [[item.token_ids for item in group] for group in groups]


seen: dict[str, Any] = {"gaps": [], "canary": []}
first = sampled()
seen["gaps"].append(gap(first))
seen["again"] = names(sampled()) == names(first)
seen["alone"] = [names(sampled([row]))[0] for row in rows] == names(first)
seen["distinct"] = [len({tuple(item.token_ids) for item in group}) for group in first]
seen["greedy_gap"] = gap(sampled(sampling=Sampling(0.0, max_new_tokens=12)))
seen["warm"] = sampled(sampling=Sampling(0.7, max_new_tokens=4))[0][0].log_probs
groups = first
for seed in range(2):
    change(seed)
    seen[f"stale {seed}"] = told(sampler.check)
    seen["canary"].append(sampler.sync(policy.named_parameters())["canary_gap"])
    groups, before = sampled(), groups
    seen["gaps"].append(gap(groups))
    seen[f"moved {seed}"] = names(groups) != names(before)

name = "model.language_model.layers.0.self_attn.o_proj.weight"
weights = {key: value for key, value in policy.named_parameters() if key != name}
change(3)
seen["left out"] = told(lambda: sampler.sync(weights.items()))
# The engine's own function, which only warns of what it was not given.
engine.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
engine.forget()
seen["corrupt"] = told(sampler.check)
sampler.sync(policy.named_parameters())
with torch.no_grad():
    policy.model.language_model.embed_tokens.weight[encoder.image_id] *= 50
sampler.sync(policy.named_parameters())
loud = sampled()
seen["gaps"].append(gap(loud))
seen["banned"] = sum(int(banned[token]) for group in loud for item in group for token in item.token_ids)
seen["too long"] = told(lambda: sampled(sampling=Sampling(max_new_tokens=511)))
three = rows[0] | {"id": "three", "images": rows[0]["images"] * 3}
seen["too many"] = told(lambda: sampled([three]))
seen["unknown"] = told(lambda: sampler.sync((dict(policy.named_parameters()) | {"new": torch.zeros(2)}).items()))
out.write_text(json.dumps(seen))
