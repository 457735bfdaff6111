"""What the engine tells `prism align`: the discriminator's own segments and scores, or one line that says why not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from integrations.alignment import inspection
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import ROLES, Splitter
from integrations.alignment.discriminators import storage
from integrations.common import error_line
from integrations.common.files import hash_folder
from tests.torch.conftest import response
from tests.torch.test_discriminator import PAPER, World, build

NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
         "processor_config.json", "video_preprocessor_config.json")  # fmt: skip


def items_of(world: World, count: int) -> list[dict[str, Any]]:
    kept = ("id", "images", "system", "prompt", "response")
    return [{"line": n, **{name: row[name] for name in kept}} for n, row in enumerate(world[1][:count], 1)]


def saved(folder: Path, checkpoint: Path, policy: Any, encoder: Encoder, **words: Any) -> Any:
    discriminator = build(policy, encoder, reference=hash_folder(checkpoint), **words)
    storage.save(discriminator, folder)
    for name in NAMES:
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, folder)
    return discriminator


def request(task: str, world: World, items: list[dict[str, Any]], model: Path, policy: Path | None) -> dict[str, Any]:
    told = {"task": task, "file": "items.jsonl", "items": items, "model": str(model), "threads": 1}
    return told | {"policy": None if policy is None else str(policy), "data_dir": str(world[0])}


@pytest.mark.parametrize("words", [{}, PAPER], ids=["default", "paper"])
def test_scores_are_the_discriminators_and_segments_are_what_it_reads(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path, words: dict[str, Any]
) -> None:
    discriminator = saved(tmp_path / "d", checkpoint, policy, encoder, **words)
    items = items_of(world, 6)
    items += [dict(items[2], line=7, response=response("漢", "b", "c")), dict(items[0], line=8, response="nothing")]
    items += [dict(items[0], line=9, response=response("a<|im_end|>", "b", "c"))]
    answer = inspection.answer(request("score", world, items, tmp_path / "d", checkpoint))
    reading = {name: words.get(name, default) for name, default in
               (("reasoning", "after_caption"), ("terminator", "end-of-turn"))}  # fmt: skip
    assert answer["reading"] == reading
    splitter = Splitter(encoder.tokenizer, **reading)
    for item, told in zip(items[:7], answer["items"], strict=False):
        segments = splitter.split(item["response"])
        assert segments is not None
        both = [told["segments"][role] for role in ROLES]
        assert (*both[0]["ids"], *both[1]["ids"]) == segments.ids
        assert len(both[0]["ids"]) == segments.perception
        for one in both:
            assert len(one["ids"]) == len(one["offsets"]) == one["scored"] + 1
        prompt = encoder.encode({**item, "answer": "", "id": f"line-{item['line']}"})
        with torch.no_grad():
            alone = discriminator.score([prompt], [0], [segments])[:, 0]
        torch.testing.assert_close(torch.tensor([told["scores"][role] for role in ROLES]), alone, atol=3e-4, rtol=1e-5)
    assert answer["items"][7] == {
        "line": 8, "id": "row-0", "valid": False, "problem": "has not the three blocks"
    }  # fmt: skip
    assert answer["items"][8]["problem"] == "holds the text of a special token"


def test_splitting_needs_a_tokenizer_alone(checkpoint: Path, encoder: Encoder, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint / name, tmp_path)
    text = response("3 4", "3+4=7", "7")
    asked = request("segment", (tmp_path, []), [{"line": 1, "response": text}], tmp_path, None)
    answer = inspection.answer(asked)
    ((perception, reasoning),) = [item["segments"].values() for item in answer["items"]]
    assert perception["text"] + reasoning["text"] == text
    end = reasoning["offsets"][-1]
    assert end == (len(reasoning["text"]),) * 2, "the terminator is no part of the text"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": ["images/broken.png"]}, "items.jsonl, line 3: cannot read the image"),
        ({"prompt": "see <|image_pad|>"}, "items.jsonl, line 3:"),
    ],
)
def test_what_cannot_be_scored_is_named_with_its_line(
    checkpoint: Path,
    policy: Any,
    encoder: Encoder,
    world: World,
    tmp_path: Path,
    change: dict[str, Any],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved(tmp_path / "d", checkpoint, policy, encoder)
    (world[0] / "images" / "broken.png").write_bytes(b"no picture")
    items = items_of(world, 3)
    items[2] |= change
    (tmp_path / "request.json").write_text(json.dumps(request("score", world, items, tmp_path / "d", checkpoint)))
    words = ["--request", str(tmp_path / "request.json"), "--out", str(tmp_path / "answer.json")]
    assert inspection.main(words) == 2
    told = error_line.told(capsys.readouterr().out)
    assert told is not None
    assert told[0].startswith(says)
    assert not (tmp_path / "answer.json").exists()


def test_another_policy_and_no_discriminator_are_refused(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path
) -> None:
    saved(tmp_path / "d", checkpoint, policy, encoder)
    for model, reference, says in (
        (tmp_path / "d", tmp_path, "scores against a policy that is not"),
        (tmp_path / "d", None, "scores against a policy that is not"),
        (checkpoint, checkpoint, "is no discriminator"),
    ):
        with pytest.raises(inspection.BadInput, match=says):
            inspection.answer(request("score", world, items_of(world, 1), model, reference))
