"""What the discriminator reads in a response, and what it gives for it.

    python -m integrations.alignment.inspection --request request.json --out answer.json

Runs in the alignment environment; `prism align` writes the request and shows the answer:

    {"task": "segment" or "score", "file": "items.jsonl", "items": [{"line": 1, "images": [], "prompt": ..,
     "response": ..}], "model": DIR, "policy": DIR or null, "data_dir": DIR, "threads": 1}

    {"reading": {"reasoning": "after_caption", "terminator": "end-of-turn"}, "items": [
      {"line": 1, "valid": true, "segments": {"perception": {"text": .., "ids": [..], "offsets": [[0, 9], ..],
       "scored": 12}, "reasoning": {..}}, "scores": {"perception": 0.3, "reasoning": -1.2}}]}

Ids hold the terminator where the segment has one; its offsets are empty, at the text's end. `scored` is the index of
the token where a head reads, the segment's last. An item without the three blocks is told so and has no segments.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.segments import ROLES, Piece, Segments, Splitter
from integrations.alignment.discriminators import published, storage
from integrations.alignment.discriminators.description import Description, read_description
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.forward.model import banned_tokens, load_policy, load_processor
from integrations.alignment.names import DESCRIPTION
from integrations.common import error_line
from integrations.common.files import hash_folder, write_json
from integrations.common.response import parse
from integrations.errors import BadInput, PrismError, StageFailed

BRANCHES = 16
"""Responses to one prompt that are scored together."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    request = json.loads(given.request.read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    try:
        write_json(given.out, answer(request))
    except PrismError as error:
        return error_line.tell(error)
    return 0


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request.

    Raises:
        BadInput: the model cannot be used, or an image cannot be read.
    """
    folder = Path(request["model"])
    description = _description(folder)
    reading = {"reasoning": "after_caption", "terminator": "end-of-turn"}
    if description is not None:
        reading = {"reasoning": description.reasoning, "terminator": description.terminator}
    splitter = Splitter(AutoTokenizer.from_pretrained(folder), **reading)
    items = [segmented(splitter, item) for item in request["items"]]
    if request["task"] == "score":
        if description is None:
            raise BadInput(f"{folder} is no discriminator", "name a run whose discriminator stage is finished")
        _add_scores(items, request, description, splitter)
    return {"reading": reading, "items": items}


def segmented(splitter: Splitter, item: dict[str, Any]) -> dict[str, Any]:
    """One item's segments, or why it has none."""
    told = {name: item[name] for name in ("line", "id") if name in item}
    pieces = splitter.pieces(item["response"])
    if pieces is None:
        formed = parse(item["response"]) is not None
        return told | {
            "valid": False,
            "problem": "holds the text of a special token" if formed else "has not the three blocks",
        }
    ends = (splitter.terminator if splitter.alone else (), splitter.terminator)
    segments = {role: _segment(piece, end) for role, piece, end in zip(ROLES, pieces, ends, strict=True)}
    return told | {"valid": True, "segments": segments}


def _segment(piece: Piece, terminator: tuple[int, ...]) -> dict[str, Any]:
    end = len(piece.text)
    ids = [*piece.ids, *terminator]
    offsets = [*piece.offsets, *[(end, end)] * len(terminator)]
    return {"text": piece.text, "ids": ids, "offsets": offsets, "scored": len(ids) - 1}


def _description(folder: Path) -> Description | None:
    if (folder / DESCRIPTION).is_file():
        return read_description(folder)
    return published.describe(folder) if published.is_published(folder) else None


@torch.inference_mode()
def _add_scores(
    items: list[dict[str, Any]], request: dict[str, Any], description: Description, splitter: Splitter
) -> None:
    """Put `scores` into every valid item; responses to one prompt share its pass."""
    folder = Path(request["model"])
    discriminator = _load(folder, description, request["policy"])
    encoder = Encoder(load_processor(folder), Path(request["data_dir"]))
    groups: dict[str, list[tuple[dict[str, Any], Segments]]] = {}
    prompts: dict[str, Prompt] = {}
    for told, item in zip(items, request["items"], strict=True):
        segments = splitter.split(item["response"])
        if segments is None:
            continue
        key = json.dumps([item["images"], item.get("system"), item["prompt"]])
        if key not in prompts:
            prompts[key] = _encode(encoder, item, key, request["file"])
        groups.setdefault(key, []).append((told, segments))
    for key, members in groups.items():
        for start in range(0, len(members), BRANCHES):
            some = members[start : start + BRANCHES]
            scores_2R = discriminator.score([prompts[key]], [0] * len(some), [segments for _, segments in some])
            for (told, _), values in zip(some, scores_2R.T.tolist(), strict=True):
                if not all(math.isfinite(value) for value in values):
                    raise StageFailed(f"{folder} gives a score that is not finite for line {told['line']}", "")
                told["scores"] = dict(zip(ROLES, values, strict=True))


def _encode(encoder: Encoder, item: dict[str, Any], key: str, file: str) -> Prompt:
    row = {"id": key, "images": item["images"], "system": item.get("system"), "prompt": item["prompt"], "answer": ""}
    try:
        return encoder.encode(row)
    except BadInput as error:
        raise BadInput(f"{file}, line {item['line']}: {error.problem}", error.fix) from error


def _load(folder: Path, description: Description, policy: str | None) -> Discriminator:
    """The discriminator, with the policy that its likelihood ratio compares with."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocabulary = AutoConfig.from_pretrained(folder).text_config.vocab_size
    banned = banned_tokens(AutoTokenizer.from_pretrained(folder), vocabulary).to(device)
    reference = None
    if description.score == "likelihood_ratio":
        if policy is None or hash_folder(Path(policy)) != description.reference:
            raise BadInput(
                f"{folder} scores against a policy that is not {policy}", "score with the run that it was trained in"
            )
        reference = load_policy(Path(policy), device)
    return storage.load(folder, banned, reference=reference, device=device)


if __name__ == "__main__":
    sys.exit(main())
