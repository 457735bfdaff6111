"""A generation server for verl without a GPU: transformers' `generate` behind the calls verl makes.

Requests of one step are collected and generated as left-padded batches. Each request draws from a random stream of its
own, seeded by the run's seed, the step, the prompt with its images and the how-manieth request for that prompt it is,
so a response does not depend on the batch it was generated in (up to rounding of the logits).

Imports neither verl nor Ray: importing verl costs 10 seconds of start-up.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, TopPLogitsWarper

MEDIA_TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass
class Tokens:
    """One response; has the fields of verl's `TokenOutput`."""

    token_ids: list[int]
    log_probs: list[float] | None
    stop_reason: str
    extra_fields: dict[str, Any]
    routed_experts: None = None
    num_preempted: None = None


@dataclass
class _Request:
    prompt_ids: list[int]
    images: list[Any]
    params: Mapping[str, Any]
    key: bytes
    """What the random stream is seeded with, and the order within a batch."""
    done: asyncio.Future[Tokens] = field(repr=False)


class GumbelSampling(LogitsProcessor):
    """Turns greedy search into sampling: the arg max of logits plus Gumbel noise is a draw from their softmax.

    One generator per row, so that rows do not share a random stream.
    """

    def __init__(self, seeds: Sequence[int] | None, temperature: float, top_p: float, forbidden: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds] if seeds is not None else None
        self.temperature = temperature
        self.top_p = TopPLogitsWarper(top_p) if top_p < 1 else None
        self.forbidden = list(forbidden)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) float32 to scores whose arg max is the sampled token."""
        scores = scores.clone()
        scores[:, self.forbidden] = -math.inf  # verl cannot place a media token inside a response
        if self.generators is None:
            return scores
        scores /= self.temperature
        if self.top_p is not None:
            scores = self.top_p(input_ids, scores)
        uniform = torch.stack([torch.rand(scores.shape[1], generator=generator) for generator in self.generators])
        return scores - torch.log(-torch.log(uniform.clamp_(min=1e-20)))


class GenerationServer:
    """Holds a copy of the policy, takes new weights after every step, answers `generate`.

    Args:
        model_path: Hugging Face folder of the policy.
        batch_size: requests of a full step; generation starts when as many have arrived, or none came for a while.
        rows: most rows in one `generate`; larger batches run one after another.
        response_length: most tokens of a response.
        seed: the run's seed.
        threads: threads of this process.
    """

    def __init__(
        self, model_path: str, batch_size: int, rows: int, response_length: int, seed: int, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        self.model = AutoModelForImageTextToText.from_pretrained(
            model_path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        self.processor = AutoProcessor.from_pretrained(model_path)
        self.tokenizer = self.processor.tokenizer
        self.batch_size, self.rows, self.response_length, self.seed = batch_size, rows, response_length, seed
        eos = self.model.generation_config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        ids = (getattr(self.model.config, name, None) for name in MEDIA_TOKENS)
        self.forbidden = [token for token in ids if token is not None]
        self.global_steps: int | None = None
        self.waiting: list[_Request] = []
        self.seen: Counter[bytes] = Counter()
        self.running: asyncio.Task[None] | None = None
        self.arrived = asyncio.Event()

    async def ready(self) -> bool:
        """True once the model is loaded."""
        return True

    async def load_weights(self, weights: Mapping[str, torch.Tensor], global_steps: int | None) -> None:
        """Take the policy's weights of step `global_steps`. Raises RuntimeError unless every parameter is given."""
        result = self.model.load_state_dict(dict(weights), strict=False)
        missing = [name for name in result.missing_keys if not name.endswith("lm_head.weight")]  # tied to the embedding
        if missing or result.unexpected_keys:
            raise RuntimeError(f"weights do not fit: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}")
        self.model.tie_weights()
        self.global_steps = global_steps
        self.seen.clear()

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling_params: Mapping[str, Any],
        request_id: str,
        image_data: Sequence[Any] | None = None,
        **unused: Any,
    ) -> Tokens:
        """One response to one prompt (image tokens already expanded)."""
        loop = asyncio.get_running_loop()
        prompt = hashlib.sha256(repr(list(prompt_ids)).encode())
        for image in image_data or ():
            prompt.update(repr(image.size).encode() + image.tobytes())
        copy = self.seen[prompt.digest()]
        self.seen[prompt.digest()] += 1
        key = prompt.digest() + copy.to_bytes(4, "big")
        request = _Request(list(prompt_ids), list(image_data or ()), dict(sampling_params), key, loop.create_future())
        self.waiting.append(request)
        self.arrived.set()
        if self.running is None or self.running.done():
            self.running = loop.create_task(self._work())
        return await request.done

    async def _work(self) -> None:
        """Generate until nothing waits."""
        while self.waiting:
            while len(self.waiting) < self.batch_size and await self._another_arrives(0.2):
                pass
            batch, self.waiting = self.waiting, []
            batch.sort(key=lambda request: request.key)
            for start in range(0, len(batch), self.rows):
                rows = batch[start : start + self.rows]
                try:
                    for request, tokens in zip(rows, await asyncio.to_thread(self._generate, rows), strict=True):
                        request.done.set_result(tokens)
                except Exception as error:
                    for request in rows:
                        if not request.done.done():
                            request.done.set_exception(error)

    async def _another_arrives(self, seconds: float) -> bool:
        self.arrived.clear()
        try:
            await asyncio.wait_for(self.arrived.wait(), seconds)
        except TimeoutError:
            return False
        return True

    @torch.inference_mode()
    def _generate(self, requests: Sequence[_Request]) -> list[Tokens]:
        """One left-padded batch (B rows, P prompt tokens, T response tokens)."""
        params = requests[0].params
        temperature = float(params.get("temperature", 1.0))
        inputs = self._inputs(requests)
        sampling = GumbelSampling(
            [self._stream(request.key) for request in requests] if temperature > 0 else None,
            temperature,
            float(params.get("top_p", 1.0)),
            self.forbidden,
        )
        output = self.model.generate(
            **inputs,
            do_sample=False,
            logits_processor=[sampling],
            max_new_tokens=self.response_length,
            pad_token_id=self.tokenizer.pad_token_id,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens_BT = output.sequences[:, inputs["input_ids"].shape[1] :]
        logits_BTV = torch.stack(output.logits, dim=1).float() / (temperature if temperature > 0 else 1.0)
        log_probs_BT = torch.log_softmax(logits_BTV, dim=-1).gather(-1, tokens_BT.unsqueeze(-1)).squeeze(-1)
        return [self._cut(ids, lp) for ids, lp in zip(tokens_BT.tolist(), log_probs_BT.tolist(), strict=True)]

    def _inputs(self, requests: Sequence[_Request]) -> dict[str, torch.Tensor]:
        """Left-padded ids and mask (B, P), pixels and grids of all images in row order."""
        pad = self.tokenizer.pad_token_id
        longest = max(len(request.prompt_ids) for request in requests)
        gaps = [longest - len(request.prompt_ids) for request in requests]
        pairs = list(zip(gaps, requests, strict=True))
        ids = torch.tensor([[pad] * gap + request.prompt_ids for gap, request in pairs])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.tensor([[0] * gap + [1] * len(request.prompt_ids) for gap, request in pairs]),
        }
        images = [image for request in requests for image in request.images]
        if images:
            pixels = self.processor.image_processor(images=images, return_tensors="pt")
            inputs["pixel_values"], inputs["image_grid_thw"] = pixels["pixel_values"], pixels["image_grid_thw"]
            inputs["mm_token_type_ids"] = (ids == self.model.config.image_token_id).long()
        return inputs

    def _stream(self, key: bytes) -> int:
        digest = hashlib.sha256(f"{self.seed}/{self.global_steps}/".encode() + key).digest()
        return int.from_bytes(digest[:8], "big") >> 1

    def _cut(self, ids: list[int], log_probs: list[float]) -> Tokens:
        """The response up to and with its end token."""
        length = next((i + 1 for i, token in enumerate(ids) if token in self.eos), len(ids))
        stopped = length > 0 and ids[length - 1] in self.eos
        return Tokens(
            token_ids=ids[:length],
            log_probs=log_probs[:length],
            stop_reason="completed" if stopped else "length",
            extra_fields={"global_steps": self.global_steps},
        )

    async def wake_up(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: weights and caches are not given away between steps. So for all calls below."""

    sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = wake_up
    abort_all_requests = resume_generation = start_profile = stop_profile = wake_up
