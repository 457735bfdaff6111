"""Does a release load, read an image, and answer as it did?

    python -m integrations.alignment.release_probe --folder DIR --out answer.json

Runs in the alignment environment, without a network and without code from the folder, and writes

    {"problems": {"weights": [], "processor": [], "canary": []}, "canary": {..}, "versions": {..}, "seconds": 4.1}

`weights`: the class that config.json names, built on the meta device (no memory), against names and shapes in the
weights' headers. `processor`: tokenizer, image processor and chat template load and render one message of an image and
a text. `canary`: the log-probability of a fixed response to a fixed picture and prompt, so that whoever downloads the
release can see that it computes what it computed here. A discriminator is loaded as the alignment engine loads it; its
canary is what its backbone gives the response as a language model, whatever it scores with.

The model is computed on the CPU in the dtype that it is kept in: a GPU would add differences of its own, and not
everyone who verifies has one. The status is 0 whenever an answer was written.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from integrations.alignment.data.segments import END_OF_TURN
from integrations.alignment.discriminators import storage
from integrations.alignment.discriminators.description import read_description
from integrations.alignment.forward.model import stored_dtype
from integrations.alignment.names import DESCRIPTION
from integrations.common.checkpoint import read_tensors
from integrations.common.files import write_json
from integrations.errors import PrismError

PROMPT = "How many squares are dark? Describe the picture first, then think, then answer."
RESPONSE = "<caption>A board of squares.</caption>\n<think>2 + 1 = 3</think>\n<answer>3</answer>"
TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 1.0, torch.float16: 0.2}
"""Nats over the whole response by dtype. Over attention implementations, threads and libraries the same weights were
seen to differ by 4e-5, 0.25 and 0.04; one stage of reinforcement learning moved the number by 1.2."""
MODELS = {model.__name__: model for model in storage.MODELS.values()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    write_json(given.out, answer(given.folder))
    return 0


def answer(folder: Path) -> dict[str, Any]:
    """What is wrong with a folder, part by part, and its canary. The model is loaded only when its parts are sound."""
    started = time.monotonic()
    problems = {
        "weights": _attempt(lambda: fit_problems(folder)),
        "processor": _attempt(lambda: processor_problems(folder)),
        "canary": list[str](),
    }
    found: dict[str, Any] = {}
    if not any(problems.values()):
        problems["canary"] = _attempt(lambda: _canary_into(found, folder))
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    seconds = round(time.monotonic() - started, 2)
    return {"problems": problems, "canary": found, "versions": versions, "seconds": seconds}


def _attempt(look: Callable[[], list[str]]) -> list[str]:
    """Problems found, or the one that stopped the search: whatever a folder makes transformers raise is about it."""
    try:
        return look()
    except PrismError as error:
        return [error.problem]
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return [f"{type(error).__name__}: {lines[0]}"]


def fit_problems(folder: Path) -> list[str]:
    """How the weights' names and shapes differ from those of the class that config.json names."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    named = (config.architectures or [""])[0]
    if named not in MODELS:
        return [f"config.json names the class {named!r}, which these engines do not train"]
    with torch.device("meta"):
        model = MODELS[named](config)
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys) if config.tie_word_embeddings else set()
    held = {name: item.shape for name, item in read_tensors(folder).items() if item.path.name != storage.HEADS}
    told = [("lacks", wanted.keys() - held.keys() - tied), ("has unknown", held.keys() - wanted.keys())]
    problems = [f"{what} tensors: {_some(names)}" for what, names in told if names]
    shapes = [f"{name} {list(held[name])}" for name in wanted.keys() & held.keys() if held[name] != wanted[name]]
    if shapes:
        problems.append(f"has tensors of another shape than the configuration asks for: {_some(shapes)}")
    if (folder / DESCRIPTION).is_file():
        description = read_description(folder)
        if description.score == "head":
            storage.load_heads(folder, description, config.text_config.hidden_size)
    return problems


def _some(names: Any) -> str:
    every = sorted(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")


def picture() -> Image.Image:
    """A board of 3 x 2 squares, 96 x 64 pixels, drawn with whole numbers only."""
    rows, columns = np.mgrid[0:64, 0:96]
    dark = (rows // 32 + columns // 32) % 2
    channels = [40 + 160 * dark, 60 + rows, 200 - columns]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _inputs(folder: Path) -> tuple[Any, str, Mapping[str, torch.Tensor]]:
    """The processor, and the rendered prompt as text and as tensors."""
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    text = processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return processor, text, processor(text=[text], images=[picture()], return_tensors="pt")


def processor_problems(folder: Path) -> list[str]:
    """What is wrong with the rendered message of an image and a text."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    processor, text, inputs = _inputs(folder)
    problems = []
    if PROMPT not in text:
        problems.append("the chat template leaves out the message's text")
    ids = inputs["input_ids"][0]
    grid = inputs["image_grid_thw"][0]
    patches = int(grid.prod()) // processor.image_processor.merge_size**2
    images = int((ids == config.image_token_id).sum())
    if images != patches:
        problems.append(f"the rendered message has {images} image tokens, its picture {patches} patches")
    if int(ids.max()) >= config.text_config.vocab_size:
        problems.append(f"the rendered message holds id {int(ids.max())}, past the embedding's end")
    if not inputs["pixel_values"].isfinite().all():
        problems.append("the image processor gives numbers that are not finite")
    if processor.tokenizer.convert_tokens_to_ids(END_OF_TURN) in (None, processor.tokenizer.unk_token_id):
        problems.append(f"the tokenizer has no {END_OF_TURN}")
    return problems


def _canary_into(found: dict[str, Any], folder: Path) -> list[str]:
    """Fill in the canary; what is wrong with the answer."""
    model = load(folder)
    processor, _, inputs = _inputs(folder)
    value, tokens = log_probability(model, processor, inputs)
    if not math.isfinite(value):
        return ["the log-probability of the fixed response is not finite"]
    found |= {
        "prompt": PROMPT,
        "response": RESPONSE,
        "image": hashlib.sha256(picture().tobytes()).hexdigest(),
        "tokens": tokens,
        "log_probability": value,
        "tolerance": TOLERANCE[model.dtype],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return []


def load(folder: Path) -> Any:
    """The model as anyone would load it, or a discriminator's backbone as its engine loads it."""
    if (folder / DESCRIPTION).is_file():
        return storage.load_backbone(folder, read_description(folder).architecture, dtype=stored_dtype(folder)).eval()
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    return model.eval()


@torch.inference_mode()
def log_probability(model: Any, processor: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[float, int]:
    """Sum over the fixed response's tokens and the end of its turn, nats, and how many they are."""
    tokenizer = processor.tokenizer
    response = tokenizer(RESPONSE, add_special_tokens=False)["input_ids"]
    answer_1A = torch.tensor([[*response, tokenizer.convert_tokens_to_ids(END_OF_TURN)]])
    ids_1T = torch.cat([inputs["input_ids"], answer_1A], dim=1)
    given = {name: value for name, value in inputs.items() if name in ("pixel_values", "image_grid_thw")}
    if "mm_token_type_ids" in inputs:
        kinds = inputs["mm_token_type_ids"]
        given["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(answer_1A, dtype=kinds.dtype)], dim=1)
    logits_1TV = model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), **given).logits
    before_1AV = logits_1TV[:, -answer_1A.shape[1] - 1 : -1].double()
    chosen_1A = before_1AV.log_softmax(-1).gather(-1, answer_1A[..., None])[..., 0]
    return float(chosen_1A.sum()), answer_1A.shape[1]


if __name__ == "__main__":
    raise SystemExit(main())
