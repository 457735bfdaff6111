"""Can every image of the prompts be decoded, and which prompts are longer than `max_prompt_length`?

    check(config)        # of `integrations.verl.check_configuration`, which runs this in the same process

verl loses the responses to an image that it cannot decode, and leaves out prompts that are too long with one line in
its log. Here both are told before Ray and the model are loaded. A length is what verl would count: the policy's own
chat template and tokenizer, and the visual tokens of images within the row's limits. Runs in verl's environment;
transformers, for its tokenizer, is imported only where lengths are in question. Writes `lengths.json` beside the
prompts:

    {"prompts": 2000, "longest": 2311, "over": [{"id": "rlvr-000012", "tokens": 2311}]}
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from integrations.common.files import read_json, write_json
from integrations.common.image_tokens import ImagePolicy, image_policy, visual_tokens
from integrations.errors import BadInput

LENGTHS = "lengths.json"
MOST_OVER = 0.5
"""Largest share of prompts that may be too long: with more, what is left is another data set."""
BATCH = 64
"""Rows held at once."""
THREADS = 8
"""Most images decoded at the same time."""
SHOWN = 3
Length = Callable[[Mapping[str, Any]], int]


def check(config: Mapping[str, Any]) -> None:
    """Look at the prompts of a rendered configuration.

    Raises:
        BadInput: an image cannot be decoded, or so many prompts are too long that what is left cannot be trained on.
    """
    data = config["data"]
    path = Path(data["train_files"])
    length = counter(Path(config["actor_rollout_ref"]["model"]["path"])) if data["filter_overlong_prompts"] else None
    damaged: list[str] = []
    over: list[dict[str, Any]] = []
    prompts = longest = 0
    for name, tokens, problem in looked_at(path, length):
        prompts, longest = prompts + 1, max(longest, tokens)
        if problem:
            damaged.append(f"row `{name}`: {problem}")
        elif tokens > data["max_prompt_length"]:
            over.append({"id": name, "tokens": tokens})
    if damaged:
        raise BadInput(
            f"{len(damaged)} of {prompts} prompts have an image that cannot be decoded: {_first(damaged)}",
            "write these images again or take the rows out",
        )
    if length is None:
        return
    write_json(path.with_name(LENGTHS), {"prompts": prompts, "longest": longest, "over": over})
    print(f"the longest of {prompts} prompts has {longest} tokens; {told(over, prompts, data['max_prompt_length'])}")
    kept = prompts - len(over)
    if kept < data["train_batch_size"] or len(over) > MOST_OVER * prompts:
        raise BadInput(
            f"{told(over, prompts, data['max_prompt_length'])}, which leaves {kept} for steps of "
            f"{data['train_batch_size']}",
            f"raise max_prompt_length (the longest has {longest}), or set a smaller max_image_pixels",
        )


def told(over: list[dict[str, Any]], prompts: int, limit: int) -> str:
    """Which prompts are too long, and what becomes of them, for people."""
    if not over:
        return f"none is longer than max_prompt_length ({limit})"
    names = _first([f"row `{prompt['id']}` with {prompt['tokens']}" for prompt in over])
    return (
        f"{len(over)} of {prompts} prompts are longer than max_prompt_length ({limit}), {names}; verl omits them"
    )


def looked_at(path: Path, length: Length | None) -> Iterator[tuple[str, int, str]]:
    """Each row's id, its length in tokens (0 without `length`), and why one of its images cannot be decoded or ""."""
    import pyarrow.parquet as pq

    look = partial(_look, length=length)
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["prompt", "images", "extra_info"]):
            yield from pool.map(look, batch.to_pylist())


def _look(row: Mapping[str, Any], length: Length | None) -> tuple[str, int, str]:
    from PIL import Image

    name = str(row["extra_info"]["id"])
    for image in row["images"]:
        try:
            with Image.open(io.BytesIO(image["bytes"])) as opened:
                opened.load()
                image["size"] = opened.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what damage is called
            return name, 0, str(error)
    return name, 0 if length is None else length(row), ""


def counter(model: Path) -> Length:
    """A function from a row of the parquet file, its images with a `size`, to its prompt's length in tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = image_policy(model)
    placeholder = int((read_json(model / "config.json") or {})["image_token_id"])

    def length(row: Mapping[str, Any]) -> int:
        turns = [{**turn, "content": _parts(turn["content"])} for turn in row["prompt"]]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return len(ids) - ids.count(placeholder) + sum(_tokens(image, policy) for image in row["images"])

    return length


def _parts(content: str) -> list[dict[str, str]]:
    """A turn's text as verl gives it to the chat template: our rows have their images' places before the text."""
    images = content.count("<image>")
    text = content.replace("<image>", "")
    return [{"type": "image"}] * images + ([{"type": "text", "text": text}] if text else [])


def _tokens(image: Mapping[str, Any], policy: ImagePolicy) -> int:
    limits = ImagePolicy(policy.patch_size, policy.merge_size, image["min_pixels"], image["max_pixels"])
    width, height = image["size"]
    return visual_tokens(width, height, limits)


def _first(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(items[:SHOWN]) + more
