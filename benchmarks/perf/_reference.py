"""The scheme of the paper's published code, written anew from what it computes: every sequence by itself.

For each response the discriminator reads prompt and image twice to score it (once with the caption, once with the
reasoning), and to learn from it four times more: its own two segments and the demonstration's two, which are read
again for every response of the group. The policy reads each response twice, first for the log-probabilities that
PPO's ratio divides by, then for its gradient. Every forward has a batch of one and encodes the image again.

Kinder than the published code in what is not part of the scheme: true multimodal positions, no logits and no other
layers' states in the discriminator's forwards, experts that nothing was routed to are not run, no search for the
caption's end by decoding every prefix, and the engine's own patch embedding and optimizer. So a comparison shows what
sharing and passing once bring, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.perf._models import Step
from integrations.alignment.data.prompts import Prompt
from integrations.alignment.data.segments import Segments
from integrations.alignment.training.players import Player

CLIP = 0.2
"""PPO's clip range in the published script."""


def inputs(prompt: Prompt, tail: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Prompt, image and tail as one sequence for a Qwen3-VL of transformers."""
    following = np.arange(len(tail)) + prompt.positions[:, -1].max() + 1
    positions = np.concatenate([prompt.positions, np.broadcast_to(following, (3, len(tail)))], 1)
    ids = torch.from_numpy(np.concatenate([prompt.ids, np.asarray(tail, np.int64)]))[None].to(device)
    found = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.from_numpy(positions)[:, None].to(device),
        "use_cache": False,
    }
    if len(prompt.grids):
        found |= {"pixel_values": prompt.patches.to(device), "image_grid_thw": prompt.grids.to(device)}
    return found


class Judge:
    """Discriminator of the reference's scheme.

    Args:
        backbone: a mixture of experts as transformers runs it.
        heads: `perception` and `reasoning`, linear maps to a scalar in fp32.
        sees_caption: reasoning is read after its caption, as this engine does, and not after the prompt alone, as the
            published code does. For checking that both schemes then compute the same.
    """

    def __init__(self, backbone: Any, heads: nn.ModuleDict, sees_caption: bool = False) -> None:
        self.backbone, self.heads, self.sees_caption = backbone, heads, sees_caption

    def score(self, prompt: Prompt, segments: Segments) -> torch.Tensor:
        """(2,) perception and reasoning, from two forwards."""
        caption, rest = segments.ids[: segments.perception], segments.ids[segments.perception :]
        read = {"perception": caption, "reasoning": segments.ids if self.sees_caption else rest}
        return torch.stack([self._last(role, prompt, tail) for role, tail in read.items()])

    def _last(self, role: str, prompt: Prompt, tail: Sequence[int]) -> torch.Tensor:
        given = inputs(prompt, tail, self.backbone.lm_head.weight.device)
        hidden_1LH = self.backbone.model(**given).last_hidden_state
        return self.heads[role](hidden_1LH[0, -1].float())[0]

    def learn(self, player: Player, step: Step, regulariser: float) -> np.ndarray:
        """One optimizer step; (2, R) the scores it began with.

        The loss is the mean over pairs of the Bradley-Terry loss of both roles, plus the mean squared score.
        """
        with torch.no_grad():
            scores = [
                self.score(step.prompts[index], student).tolist()
                for index, student in zip(step.which, step.students, strict=True)
            ]
        player.begin(0)
        total = 0.0
        for index, student in zip(step.which, step.students, strict=True):
            own = self.score(step.prompts[index], student)
            teacher = self.score(step.prompts[index], step.teachers[index])
            loss = -F.logsigmoid(teacher - own).sum() + regulariser * (teacher.pow(2) + own.pow(2)).sum() / 2
            (loss / len(step.which)).backward()
            total += float(loss.detach()) / len(step.which)
        player.finish(total)
        return np.asarray(scores).T


def response_log_probs(model: Any, prompt: Prompt, response: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """(T,) float32 log-probabilities of a response's tokens, and (T,) entropies; logits at every position."""
    given = inputs(prompt, response, model.lm_head.weight.device)
    logits_TV = model(**given).logits[0, len(prompt.ids) - 1 : -1].float()
    distribution = logits_TV.log_softmax(-1)
    chosen = distribution.gather(-1, given["input_ids"][0, len(prompt.ids) :, None])[:, 0]
    return chosen, -(distribution.detach().exp() * distribution.detach()).sum(-1)


def update_policy(model: Any, player: Player, step: Step) -> None:
    """One optimizer step of PPO's clipped objective, a mean over all response tokens."""
    pairs = [(step.prompts[index], student.ids) for index, student in zip(step.which, step.students, strict=True)]
    with torch.no_grad():
        old = [response_log_probs(model, prompt, ids)[0] for prompt, ids in pairs]
    player.begin(0)
    tokens, total = sum(len(ids) for _, ids in pairs), 0.0
    for (prompt, ids), before, advantage in zip(pairs, old, step.advantages, strict=True):
        log_probs, _ = response_log_probs(model, prompt, ids)
        ratio = (log_probs - before).exp()
        clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
        loss = -torch.minimum(ratio * advantage, clipped * advantage).sum() / tokens
        loss.backward()
        total += float(loss.detach())
    player.finish(total)
