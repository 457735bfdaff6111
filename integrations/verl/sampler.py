"""The batch sampler given to verl (`trainer.v1.sampler.custom_sampler`), for what verl's own does not do.

- It looks for finished groups every few hundredths of a second instead of every 2 s, which with small models is most
  of a step's time.
- It adds to each step's metrics what the stage must know exactly and verl does not log: accuracy and format apart,
  generated tokens, responses lost to errors, groups whose rewards are all equal and so teach nothing.
- It runs the reward's self-test before the first step, and ends the training when too many answers get no verdict.
- It keeps verl from failing on a batch whose sequences are all of one length (`keep_lengths_apart`).
- Where groups without variance are left out (DAPO) it bounds how many prompts one step may ask for: verl goes on for
  ever with prompts that are all too easy or too hard. It also counts what was generated in vain.
- It notices when a Ray actor has died. verl waits for responses and for its queue without a limit, for ever when the
  process that should answer is gone.

The filtering itself stays with verl's class; verl gives a sampler of one's own no arguments for it, so they come with
`sampler_kwargs`.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import ray.util
import torch
import transfer_queue  # type: ignore[import-not-found]
from tensordict import TensorDict  # type: ignore[import-not-found]
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from integrations.verl.reward.algebra import POOL
from integrations.verl.reward.self_test import self_test
from integrations.verl.reward.verdict import MOST_ERRORS, Errors

SECONDS_BETWEEN_CHECKS = 2.0
LENGTHENED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "responses": torch.clone,
    "input_ids": torch.clone,
    "position_ids": lambda last: last + 1,
    "response_mask": torch.zeros_like,
    "loss_mask": torch.zeros_like,
    "rollout_log_probs": torch.zeros_like,
    "rm_scores": torch.zeros_like,
}
"""What verl keeps per token at this point, and what stands for one token more, given the last one."""


class Sampler(ReplayBuffer):
    """verl's synchronous sampling with a short poll, exact counts and a watch over the actors.

    `sampler_kwargs`: `poll_interval` in seconds, `group_size` responses asked for per prompt, `last_step` of the stage,
    after which actors may leave; `enable`, `metric` and `max_inflight_gen_batches` as in verl's
    `algorithm.filter_groups`; `prompts_per_step`, and `generation_limit`, the most prompts of one step in units of it.
    """

    def __init__(self, *, sampler_kwargs: Any, refill_fn: Callable[[int], Any], **kwargs: Any) -> None:
        filtering: dict[str, Any] = {}
        if sampler_kwargs["enable"]:
            filtering = {
                "filter_groups_metric": str(sampler_kwargs["metric"]),
                "max_inflight_gen_batches": int(sampler_kwargs["max_inflight_gen_batches"]),
                "train_batch_size": int(sampler_kwargs["prompts_per_step"]),
                "gen_batch_size": 1,
            }
        super().__init__(
            sampler_kwargs=sampler_kwargs,
            poll_interval=float(sampler_kwargs["poll_interval"]),
            refill_fn=self.refill,
            **kwargs,
            **filtering,
        )
        self.more_prompts = refill_fn
        self.group_size = int(sampler_kwargs["group_size"])
        self.last_step = int(sampler_kwargs["last_step"])
        self.most_refilled = (int(sampler_kwargs["generation_limit"]) - 1) * int(sampler_kwargs["prompts_per_step"])
        self.refilled, self.spent_in_vain = 0, 0
        self.watch: Watch | None = None
        self.errors = Errors()
        check_reward()

    def refill(self, prompts: int) -> Any:
        """Ask for more prompts in place of groups without variance, up to the limit.

        Raises:
            RuntimeError: the step has asked for as many as it may.
        """
        self.refilled += prompts
        if self.refilled > self.most_refilled:
            raise RuntimeError(
                f"Groups without variance: after {self.most_refilled} more prompts the step still has too few groups "
                f"with both right and wrong answers"
            )
        return self.more_prompts(prompts)

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        """As verl's, which drops groups that no step will use; their tokens are counted first."""
        tags = self.partitions[partition_id].items()
        self.spent_in_vain += sum(int(tag.get("response_len", 0)) for key, tag in tags if key.split("_")[0] in uids)
        super()._clear_groups(partition_id, uids)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[Any, dict[str, Any]]:
        """As verl's; the metrics gain the keys of `step_metrics`."""
        self.watch = self.watch or Watch()
        self.refilled, self.spent_in_vain = 0, 0
        batch, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            metrics.update(self.step_metrics(batch, batch_size))
            metrics["prism/evicted_groups"] = metrics.get("training/filter_groups/evicted_samples", 0)
            keep_lengths_apart(batch)
        if global_steps >= self.last_step:
            self.watch.end()
        return batch, metrics

    def step_metrics(self, batch: Any, batch_size: int) -> dict[str, float]:
        """Counts and means over the batch's responses, under names of our own."""
        data = transfer_queue.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"]
        )
        rewards = [fields["reward_extra_info"] for fields in list(data["extra_fields"])]
        groups: dict[str, list[float]] = defaultdict(list)
        for key, reward in zip(batch.keys, rewards, strict=True):
            groups[key.split("_")[0]].append(reward["score"])
        responses = len(rewards)
        undecided = int(sum(reward["error"] for reward in rewards))
        self.errors.add(responses, undecided)
        if self.errors.too_many:
            raise RuntimeError(
                f"Reward errors: {self.errors.errors} of {self.errors.judged} answers got no verdict, more than "
                f"{MOST_ERRORS:.0%}"
            )
        return {
            "prism/responses": responses,
            "prism/groups": len(groups),
            "prism/lost": batch_size * self.group_size - responses,
            "prism/generated_tokens": sum(tag["response_len"] for tag in batch.tags) + self.spent_in_vain,
            "prism/reward": _mean([reward["score"] for reward in rewards]),
            "prism/accuracy": _mean([reward["accuracy"] for reward in rewards]),
            "prism/reward_errors": undecided,
            "prism/format": _mean([reward["format"] for reward in rewards]),
            "prism/judged": sum(reward.get("judged", 0.0) for reward in rewards),
            "prism/agreed": sum(reward.get("agreed", 0.0) for reward in rewards),
            "prism/overlong": _mean([float(reward.get("overlong", 0.0)) for reward in rewards]),
            "prism/silent_groups": sum(len(set(scores)) == 1 for scores in groups.values()) / len(groups),
        }


def check_reward() -> None:
    """Raises when the reward gets a known verdict wrong, or cannot reach it in this environment."""
    problems = self_test()
    POOL.close()  # answers are judged in other processes
    if problems:
        raise RuntimeError(f"Reward self-test: {'; '.join(problems)}")


def _mean(values: Sequence[float]) -> float:
    """The same for the same values in any order: responses come back in the order in which they ended."""
    return math.fsum(values) / len(values)


class Watch:
    """Ends this process soon after one of the actors that were alive at the start has died.

    This process is the one that holds the training together: its end ends the stage, with the actor's name in the log.
    The names are looked up in a thread, because whoever waits for a dead actor cannot look.
    """

    def __init__(self) -> None:
        self.actors = _living_actors()
        self.over = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def end(self) -> None:
        """Stop looking."""
        self.over.set()

    def _look(self) -> None:
        while not self.over.wait(SECONDS_BETWEEN_CHECKS):
            gone = self.actors - _living_actors()
            if gone and not self.over.is_set():
                print(f"Ray actor died: {', '.join(sorted(gone))}", flush=True)
                time.sleep(1)  # Ray carries the line to the log
                os._exit(1)


def keep_lengths_apart(batch: Any) -> None:
    """Lengthen one response by a token that counts for nothing, if all sequences of the batch are equally long.

    verl passes a sequence's position ids as one tensor (4, length) and lets torch find out which dimension differs in
    a batch. When none does, it takes the first, and the next access fails.
    """
    if len({tag["seq_len"] for tag in batch.tags}) > 1:
        return
    key, tag = batch.keys[0], batch.tags[0]
    stored = transfer_queue.kv_batch_get(keys=[key], partition_id=batch.partition_id, select_fields=list(LENGTHENED))
    fields = {}
    for name, grow in LENGTHENED.items():
        values = stored[name].values() if stored[name].is_nested else stored[name][0]
        fields[name] = torch.cat([values, grow(values[..., -1:])], dim=-1).unsqueeze(0)
    transfer_queue.kv_batch_put(keys=[key], partition_id=batch.partition_id, fields=TensorDict(fields, batch_size=1))
    tag["response_len"] += 1
    tag["seq_len"] += 1


def _living_actors() -> set[str]:
    return {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
