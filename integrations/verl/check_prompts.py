"""Can every image of the prompts be decoded, and which prompts are longer than `max_prompt_length`?

    check(config)        # of `integrations.verl.check_configuration`, which runs this in the same process

verl loses the responses to an image that it cannot decode, and leaves out prompts that are too long with one line in
its log. Here both are told before Ray and the model are loaded. A length is what verl would count: the policy's own
chat template and tokenizer, and the visual tokens of images within the row's limits. Runs in verl's environment;
transformers, for its tokenizer, is imported only where lengths are in question. Writes `checked.json` beside the
prompts, for the stage's news and notes:

    {"prompts": 2000, "longest": 2311, "over": [{"id": "rlvr-000012", "tokens": 2311}], "transparent": []}
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from integrations.common.files import read_json, write_json
from integrations.common.image_tokens import ImagePolicy, image_policy, visual_tokens
from integrations.errors import BadInput

CHECKED = "checked.json"
MOST_OVER = 0.5
"""Largest share of prompts that may be too long: with more, what is left is another data set."""
BATCH = 64
"""Rows held at once."""
THREADS = 8
"""Most images decoded at the same time."""
SHOWN = 3
Length = Callable[[Mapping[str, Any]], int]


@dataclass
class Prompt:
    """What was seen of one prompt."""

    id: str
    tokens: int = 0
    """Its length, where lengths are counted."""
    problem: str = ""
    """Why one of its images cannot be decoded."""
    transparent: bool = False
    """One of its images has transparent parts."""


def check(config: Mapping[str, Any]) -> None:
    """Look at the prompts of a rendered configuration.

    Raises:
        BadInput: an image cannot be decoded, or so many prompts are too long that what is left cannot be trained on.
    """
    data = config["data"]
    path, limit = Path(data["train_files"]), int(data["max_prompt_length"])
    length = counter(Path(config["actor_rollout_ref"]["model"]["path"])) if data["filter_overlong_prompts"] else None
    prompts = list(looked_at(path, length))
    if damaged := [f"row `{prompt.id}`: {prompt.problem}" for prompt in prompts if prompt.problem]:
        raise BadInput(
            f"{len(damaged)} of {len(prompts)} prompts have an image that cannot be decoded: {_first(damaged)}",
            "write these images again or take the rows out",
        )
    longest = max(prompt.tokens for prompt in prompts)
    checked: dict[str, Any] = {
        "prompts": len(prompts),
        "longest": longest,
        "over": [{"id": prompt.id, "tokens": prompt.tokens} for prompt in prompts if prompt.tokens > limit],
        "transparent": [prompt.id for prompt in prompts if prompt.transparent],
    }
    write_json(path.with_name(CHECKED), checked)
    for line in told(checked, limit):
        print(line)
    kept = len(prompts) - len(checked["over"])
    if kept < data["train_batch_size"] or kept < (1 - MOST_OVER) * len(prompts):
        raise BadInput(
            f"{told(checked, limit)[0]}, which leaves {kept} for steps of {data['train_batch_size']}",
            f"raise max_prompt_length (the longest has {longest}), or set a smaller max_image_pixels",
        )


def told(checked: Mapping[str, Any], limit: int) -> list[str]:
    """What people should know of the content of `checked.json`: which prompts are too long, and images with
    transparent parts."""
    lines, prompts = [], checked["prompts"]
    if over := checked["over"]:
        names = _first([f"row `{prompt['id']}` with {prompt['tokens']}" for prompt in over])
        lines.append(
            f"{len(over)} of {prompts} prompts are longer than max_prompt_length ({limit}), {names}; verl omits them"
        )
    if transparent := checked["transparent"]:
        names = _first([f"row `{name}`" for name in transparent])
        lines.append(
            f"{len(transparent)} of {prompts} prompts have images with transparent parts, {names}; verl shows these on "
            "white and other engines as the colour underneath, often black: store them without transparency"
        )
    return lines


def looked_at(path: Path, length: Length | None) -> Iterator[Prompt]:
    """Each prompt of a parquet file, in order; without `length` none is counted."""
    import pyarrow.parquet as pq

    look = partial(_look, length=length)
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=["prompt", "images", "extra_info"]):
            yield from pool.map(look, batch.to_pylist())


def _look(row: Mapping[str, Any], length: Length | None) -> Prompt:
    from PIL import Image

    prompt = Prompt(str(row["extra_info"]["id"]))
    for image in row["images"]:
        try:
            with Image.open(io.BytesIO(image["bytes"])) as opened:
                opened.load()
                image["size"] = opened.size
                if opened.mode == "RGBA" and opened.getextrema()[3][0] < 255:  # of other modes all drop transparency
                    prompt.transparent = True
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what damage is called
            prompt.problem = str(error)
            return prompt
    prompt.tokens = 0 if length is None else length(row)
    return prompt


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
