"""Does a stage's result load and answer?

    python -m integrations.alignment.check_model --model DIR --row-file pool.jsonl --out verdict.json

Loads the folder with transformers as anyone would, looks for weights that are missing, left over, of another shape or
not finite, and answers the pool's first prompt (image and text) greedily. Runs in the alignment environment and writes

    {"ok": true, "problems": [], "canary": "<caption>3 4...", "seconds": 6.1}

The status is 0 whenever a verdict was written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from integrations.common.files import write_json
from integrations.common.rows import Row, messages, read_rows

TOKENS = 32
"""Longest answer to the canary prompt."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--row-file", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    started = time.monotonic()
    row = next(read_rows(args.row_file))
    try:
        problems, canary = check(args.model, row, args.row_file.parent)
    except Exception as error:  # the verdict is on the folder, whatever it makes transformers raise
        problems, canary = [f"{args.model} does not load: {type(error).__name__}: {error}".splitlines()[0]], ""
    verdict = {"ok": not problems, "problems": problems, "canary": canary}
    write_json(args.out, verdict | {"seconds": round(time.monotonic() - started, 2)})
    return 0


def check(folder: Path, row: Row, data_dir: Path) -> tuple[list[str], str]:
    """What is wrong with a model folder that loads, and its answer to a row's prompt."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, loaded = AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", output_loading_info=True, local_files_only=True
    )
    model = model.to(device).eval()
    problems = [
        f"{what} tensors: {', '.join(sorted(map(str, loaded[key]))[:3])}"
        for what, key in (
            ("missing", "missing_keys"),
            ("unknown", "unexpected_keys"),
            ("differently shaped", "mismatched_keys"),
        )
        if loaded[key]
    ]
    problems += [f"`{name}` is not finite" for name, p in model.named_parameters() if not p.isfinite().all()][:3]
    if problems:
        return problems, ""
    return answer(model, AutoProcessor.from_pretrained(folder, local_files_only=True), row, data_dir)


@torch.inference_mode()
def answer(model: Any, processor: Any, row: Row, data_dir: Path) -> tuple[list[str], str]:
    """Problems in answering one row, and the answer's text."""
    turns = [{**turn, "content": _parts(turn, len(row["images"]))} for turn in messages(row)]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images = [Image.open(data_dir / image).convert("RGB") for image in row["images"]]
    inputs = processor(text=[text], images=images or None, return_tensors="pt").to(model.device)
    logits = model(**inputs).logits[0, -1]
    if not logits.isfinite().all():
        return [f"logits are not finite after the prompt of row {row['id']}"], ""
    output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    canary = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return ([] if canary else [f"no answer to the prompt of row {row['id']}"]), canary


def _parts(turn: dict[str, str], images: int) -> list[dict[str, str]]:
    """A turn's content as the chat template's parts: images first, as everywhere in this project."""
    text = {"type": "text", "text": turn["content"].replace("<image>" * images, "", 1)}
    return [{"type": "image"}] * images + [text] if turn["role"] == "user" else [text]


if __name__ == "__main__":
    raise SystemExit(main())
