"""Sampling with vLLM inside the trainer's process (the one route on which its weights are replaced in place).

The process then runs in the vLLM environment, which has what the alignment engine needs. Every response is a request
of its own with its own seed; vLLM shares the prompt's cache among them. Tokens that a response may not hold get a bias
of minus infinity, and log-probabilities are those of the distribution that is sampled. Weights go over one tensor at a
time; afterwards every parameter that the engine still has in plain form must have the sum and the norm of what was
sent, and all caches of prompts, images and vision outputs are dropped: each of them would go on with the old weights.
The CPU build lays matrices out anew and has no plain form of them; there the canary alone (`engines.Synced`) tells.

Responses repeat for the same seed, version and machine. On a GPU they may depend on what is decoded beside them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read by vLLM when it is imported. One process, so that weights are handed over by reference; the model runner that
# the tests run; on CPUs 1 GiB of cache, and threads where the system puts them.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_DO_NOT_TRACK", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import numpy as np
import torch
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.seeds import derive
from integrations.alignment.data.segments import Vocabulary
from integrations.alignment.rollouts.rollout import Generation, Sampling, Seeds, Weights
from integrations.common.rows import Row
from integrations.errors import BadInput, StageFailed

if TYPE_CHECKING:
    from integrations.alignment.settings import RolloutSettings

EMBEDDING, OUTPUT = "model.language_model.embed_tokens.weight", "lm_head.weight"
EXACT = 1e-10
"""Largest relative difference between two float64 sums of the same numbers in different orders."""
ASK_FOR_TRANSFORMERS = "set `rollout.engine` to transformers"

Sums = dict[str, tuple[float, float]]
"""By the engine's name of a parameter: the sum of its elements, and of their squares."""


class VllmEngine:
    """See `engines.Engine`.

    Args:
        folder: checkpoint with the policy's architecture and processor; its weights are read once, at the start.
        encoder: for the same processor.
        banned_V: (V,) bool, True for tokens that a response may not hold.
        rollout: the recipe's settings.
        longest: tokens of a prompt with its response; room for at least one is reserved.
        dtype: of the engine's weights and activations.

    Raises:
        StageFailed: vLLM cannot start.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        banned_V: torch.Tensor,
        rollout: RolloutSettings,
        *,
        longest: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.encoder, self.dtype, self.most_images = encoder, dtype, rollout.max_images
        self.vocabulary = Vocabulary(encoder.tokenizer)
        self.bias = dict.fromkeys(banned_V.nonzero()[:, 0].tolist(), -math.inf)
        self.can_sleep = rollout.sleep and device != "cpu"
        if rollout.sleep and not self.can_sleep:
            print("the rollout engine does not sleep: there is no GPU memory to give up", flush=True)
        context = _context(folder, longest)
        self.llm = _start(folder, rollout, context, dtype, device, self.can_sleep)
        [names] = self.llm.apply_model(lambda model: [name for name, _ in model.named_parameters()])
        # Known under one name only while they are one tensor; the CPU build lays the output layer's copy out anew.
        self.tied = {} if "language_model.lm_head.weight" in names else {EMBEDDING: OUTPUT}
        self.longest = context

    def sample(
        self, rows: Sequence[Row], samples: int, sampling: Sampling, seeds: Seeds, batch_size: int
    ) -> list[list[Generation]]:
        """`samples` responses to each row; `batch_size` is the engine's own, given at the start.

        Raises:
            BadInput: a prompt with its response is longer than the engine's context, or has too many images.
            StageFailed: the engine reads a prompt otherwise than the trainer, or computes NaN.
        """
        requests, parameters, prompts = [], [], []
        for index, row in enumerate(rows):
            prompt = self.encoder.encode(row)
            self._check_size(prompt, sampling)
            request = self._request(prompt, row)
            for sample in range(samples):
                key = seeds(row, sample) if callable(seeds) else derive(seeds[index], sample)
                requests.append(request)
                parameters.append(self._parameters(sampling, key))
                prompts.append(prompt)
        outputs = self.llm.generate(requests, parameters, use_tqdm=False)
        told = sampling.temperature in (0, 1) and sampling.top_p == 1 and not sampling.top_k
        found = [self._generation(output, prompt, told) for output, prompt in zip(outputs, prompts, strict=True)]
        return [found[start : start + samples] for start in range(0, len(found), samples)]

    def load(self, weights: Weights) -> None:
        sent: Sums = {}
        places, own = self._places()

        def passing() -> Iterator[tuple[str, torch.Tensor]]:
            for name, value in weights:
                value = value.to(self.dtype)
                total, squares = sums(value)
                for known in (name, self.tied.get(name)):
                    if known is not None:
                        place = places(known)
                        if place not in own:
                            raise StageFailed(f"vLLM's model has no `{known}`", ASK_FOR_TRANSFORMERS)
                        first, second = sent.get(place, (0.0, 0.0))
                        sent[place] = (first + total, second + squares)
                        yield known, value

        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": passing()})
        self.forget()
        [have] = self.llm.apply_model(parameter_sums)
        _compare(sent, have)

    def forget(self) -> None:
        """Drop all that was computed with other weights: prompts' keys and values, images, vision outputs."""
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def sleep(self) -> None:
        if self.can_sleep:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        if self.can_sleep:
            self.llm.wake_up()

    def _places(self) -> tuple[Callable[[str], str], set[str]]:
        """The way from the policy's name of a tensor to that of the engine's parameter that holds it, and the latter's.

        Both by the model's own tables, which vLLM documents for loading checkpoints and adapters.
        """
        [(mapper, packed, own)] = self.llm.apply_model(
            lambda model: (
                model.hf_to_vllm_mapper,
                model.packed_modules_mapping,
                {name for name, _ in model.named_parameters(remove_duplicate=False)},
            )
        )
        fused = {part: whole for whole, parts in packed.items() for part in parts}

        def place(name: str) -> str:
            mapped = mapper.map_name(name) or name
            return ".".join(fused.get(part, part) for part in mapped.split("."))

        return place, own

    def _check_size(self, prompt: Prompt, sampling: Sampling) -> None:
        if len(prompt.ids) + sampling.max_new_tokens > self.longest:
            raise BadInput(
                f"{prompt.id} has {len(prompt.ids)} tokens; with {sampling.max_new_tokens} to generate that is more "
                f"than the rollout engine's {self.longest}",
                "lower `max_prompt_tokens` and `rollout.max_new_tokens`: the model itself allows no more",
            )
        if len(prompt.grids) > self.most_images:
            raise BadInput(f"{prompt.id} has {len(prompt.grids)} images", "raise `rollout.max_images`")

    def _request(self, prompt: Prompt, row: Row) -> TokensPrompt:
        """The prompt with one placeholder per image, which vLLM repeats itself."""
        if not len(prompt.grids):
            return TokensPrompt(prompt_token_ids=prompt.ids.tolist())
        ids = one_placeholder_each(prompt, self.encoder.image_id, self.encoder.merge)
        pictures = [self.encoder.image(path) for path in row["images"]]
        return TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": pictures})

    def _parameters(self, sampling: Sampling, key: int) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=key,
            logprobs=0,
            logit_bias=self.bias,
            stop_token_ids=[self.vocabulary.end],
            ignore_eos=True,  # the checkpoint's list of ends may hold others
            detokenize=False,
        )

    def _generation(self, output: Any, prompt: Prompt, told: bool) -> Generation:
        if output.prompt_token_ids != prompt.ids.tolist():
            raise StageFailed(f"vLLM reads the images of {prompt.id} otherwise than the trainer", ASK_FOR_TRANSFORMERS)
        [response] = output.outputs
        ids = list(response.token_ids)
        log_probs = [step[token].logprob for step, token in zip(response.logprobs, ids, strict=True)]
        if not all(map(math.isfinite, log_probs)):
            raise StageFailed("the model's activations are not finite", "lower the learning rate and start anew")
        finished = ids[-1] == self.vocabulary.end
        return Generation(ids, self.vocabulary.text(ids), finished, log_probs if told else None)


def one_placeholder_each(prompt: Prompt, image_id: int, merge: int) -> list[int]:
    """The prompt's ids with each image's placeholder once."""
    counts = [int(grid.prod()) // merge**2 for grid in prompt.grids]
    places = np.flatnonzero(prompt.ids == image_id)
    keep = prompt.ids != image_id
    keep[places[np.cumsum([0, *counts[:-1]])]] = True
    return prompt.ids[keep].tolist()


def sums(value: torch.Tensor) -> tuple[float, float]:
    """A tensor's sum and sum of squares, in float64."""
    value = value.detach()
    norm = torch.linalg.vector_norm(value, dtype=torch.float64)
    return float(value.sum(dtype=torch.float64)), float(norm) ** 2


@torch.no_grad()
def parameter_sums(model: Any) -> dict[str, tuple[float, float] | None]:
    """By parameter of vLLM's model its `sums`; None where the platform keeps it in another form."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {name: sums(value) if value.numel() else None for name, value in parameters}


def _compare(sent: Sums, have: dict[str, tuple[float, float] | None]) -> None:
    """Check that the engine holds what was sent.

    Raises:
        StageFailed: naming a parameter that differs.
    """
    if missing := have.keys() - sent.keys():
        raise StageFailed(f"vLLM was not given its `{min(missing)}`", ASK_FOR_TRANSFORMERS)
    for name, own in have.items():
        if own is not None and not _same(sent[name], own):
            raise StageFailed(
                f"`{name}` did not arrive in vLLM: sum and sum of squares are {own}, not {sent[name]}",
                ASK_FOR_TRANSFORMERS,
            )


def _same(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
    # The sum may be near zero; what its rounding errors are measured against is the size of the elements.
    scale = (math.sqrt(ours[1]), 1.0)
    return all(abs(a - b) <= EXACT * max(abs(a), size, 1e-30) for a, b, size in zip(ours, theirs, scale, strict=True))


def _start(folder: Path, rollout: RolloutSettings, context: int, dtype: torch.dtype, device: str, sleep: bool) -> LLM:
    try:
        return LLM(**options(folder, rollout, context, dtype, device, sleep))
    except (RuntimeError, ValueError, OSError) as error:
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StageFailed(
            f"vLLM cannot start: {first_line}",
            "raise `rollout.gpu_memory_share` or lower `max_prompt_tokens`; without a GPU " + ASK_FOR_TRANSFORMERS,
        ) from error


def options(
    folder: Path, rollout: RolloutSettings, context: int, dtype: torch.dtype, device: str, sleep: bool
) -> dict[str, Any]:
    """vLLM's own options for the policy in `folder`."""
    return {
        "model": str(folder),
        "dtype": str(dtype).removeprefix("torch."),
        "seed": 0,
        "generation_config": "vllm",  # neutral defaults in place of the checkpoint's own
        "max_model_len": context,
        "max_num_seqs": rollout.batch_size,
        "limit_mm_per_prompt": {"image": rollout.max_images, "video": 0},
        "logprobs_mode": "processed_logprobs",
        "gpu_memory_utilization": rollout.gpu_memory_share,
        "enforce_eager": device == "cpu" or not rollout.compiled,
        "enable_sleep_mode": sleep,
        "tensor_parallel_size": 1,
        "distributed_executor_backend": _executor(),
        "disable_log_stats": True,
    }


def _executor() -> str:
    """Where several processes train, each has an engine of its own, on the GPU that torchrun gave the process."""
    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return "external_launcher" if several else "uni"


def _context(folder: Path, wanted: int) -> int:
    """The context to serve: vLLM refuses one that is longer than the model's."""
    from transformers import AutoConfig

    return min(wanted, AutoConfig.from_pretrained(folder).text_config.max_position_embeddings)
