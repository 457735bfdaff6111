"""The generation server of verl's CPU plug-in: who gets which random stream, and what log-probabilities it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from integrations.common.rows import Row, messages
from integrations.verl.cpu.server import GenerationServer, GumbelSampling, Tokens

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}


@dataclass(frozen=True)
class Folder:
    """A model, and images that rows name relative to the data's folder."""

    model: Path
    data: Path


@pytest.fixture(scope="module")
def folder(checkpoint: Path, world: tuple[Path, list[Row]]) -> Folder:
    return Folder(checkpoint, world[0])


@pytest.fixture(scope="module")
def rows(world: tuple[Path, list[Row]]) -> list[Row]:
    return world[1][:6]


def server(folder: Folder, **changes: Any) -> GenerationServer:
    given = {"batch_size": 4, "rows": 64, "response_length": 12, "seed": 3, "threads": 1}
    return GenerationServer(str(folder.model), **given | changes)


def responses(
    to: GenerationServer, folder: Folder, rows: Sequence[Row], params: dict[str, Any] | None = None
) -> list[Tokens]:
    """One response to each row, all asked for at once."""

    async def all_at_once() -> list[Tokens]:
        requests = []
        for row in rows:
            images = [Image.open(folder.data / path).convert("RGB") for path in row["images"]]
            turns = messages(row)
            turns[-1]["content"] = [{"type": "image"}] * len(images) + [{"type": "text", "text": row["prompt"]}]
            text = to.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            ids = to.processor(text=[text], images=images or None)["input_ids"][0]
            requests.append(to.generate(ids, params or SAMPLING, "id", images))
        return await asyncio.gather(*requests)

    return asyncio.run(all_at_once())


def test_a_response_does_not_depend_on_the_others_in_its_batch(folder: Folder, rows: list[Row]) -> None:
    together = responses(server(folder, batch_size=6), folder, rows)
    backwards = responses(server(folder, batch_size=6, rows=2), folder, rows[::-1])[::-1]
    for row, left, right in zip(rows, together, backwards, strict=True):
        (alone,) = responses(server(folder, batch_size=1), folder, [row])
        assert left.token_ids == right.token_ids == alone.token_ids
        assert left.log_probs == pytest.approx(alone.log_probs, abs=1e-4)


def test_the_samples_of_a_prompt_differ_and_repeat(folder: Folder, rows: list[Row]) -> None:
    first = [tuple(item.token_ids) for item in responses(server(folder), folder, [rows[1]] * 4)]
    assert len(set(first)) == 4
    assert sorted(first) == sorted(tuple(item.token_ids) for item in responses(server(folder), folder, [rows[1]] * 4))


def test_seed_and_step_change_every_sample(folder: Folder, rows: list[Row]) -> None:
    (base,) = responses(server(folder), folder, rows[:1])
    (other_seed,) = responses(server(folder, seed=4), folder, rows[:1])
    later = server(folder)
    weights = later.model.state_dict()
    asyncio.run(later.load_weights(weights, 7))
    (other_step,) = responses(later, folder, rows[:1])
    assert len({tuple(item.token_ids) for item in (base, other_seed, other_step)}) == 3
    assert (base.extra_fields, other_step.extra_fields) == ({"global_steps": None}, {"global_steps": 7})


def test_images_of_one_size_have_streams_of_their_own(folder: Folder, rows: list[Row]) -> None:
    """Same text, same number of tokens, other picture."""
    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (64, 32), (value,) * 3).save(folder.data / "images" / f"{name}.png")
    asked = [rows[0] | {"images": [f"images/{name}.png"]} for name in ("black", "white")]
    keys: list[bytes] = []
    to = server(folder, batch_size=2)
    stream = to._stream
    to._stream = lambda key: keys.append(key) or stream(key)  # type: ignore[method-assign,func-returns-value]
    responses(to, folder, asked)
    assert len(set(keys)) == 2


def test_log_probabilities_are_those_of_one_forward_pass(folder: Folder, rows: list[Row]) -> None:
    """Of the unchanged logits at the sampling temperature: what the trainer computes."""
    to = server(folder)
    row = rows[1]
    (given,) = responses(to, folder, [row], {"temperature": 0.7, "top_p": 0.8})
    image = Image.open(folder.data / row["images"][0]).convert("RGB")
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"]}]}]
    text = to.processor.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    inputs = to.processor(text=[text], images=[image], return_tensors="pt")
    ids = torch.cat([inputs["input_ids"], torch.tensor([given.token_ids])], dim=1)
    with torch.inference_mode():
        logits = to.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=inputs["pixel_values"],
            image_grid_thw=inputs["image_grid_thw"],
            mm_token_type_ids=(ids == to.model.config.image_token_id).long(),
        ).logits[0, inputs["input_ids"].shape[1] - 1 : -1]
    expected = torch.log_softmax(logits / 0.7, dim=-1).gather(-1, torch.tensor(given.token_ids).unsqueeze(-1))
    assert given.log_probs == pytest.approx(expected.squeeze(-1).tolist(), abs=1e-4)


def test_a_response_ends_with_its_end_token_or_at_the_limit(folder: Folder, rows: list[Row]) -> None:
    for item in responses(server(folder, response_length=40, batch_size=24), folder, rows * 4):
        assert item.log_probs is not None
        assert len(item.log_probs) == len(item.token_ids) <= 40
        end = server_end(folder)
        assert end not in item.token_ids[:-1]
        assert item.stop_reason == ("completed" if item.token_ids[-1] == end else "length")
        assert item.stop_reason == "completed" or len(item.token_ids) == 40


def server_end(folder: Folder) -> int:
    (end,) = {token for token in server(folder).eos if token != server(folder).tokenizer.pad_token_id}
    return end


def test_media_tokens_are_never_sampled() -> None:
    scores = torch.zeros(3, 5)
    scores[:, 2] = 100.0
    for seeds in ([1, 2, 3], None):
        sampled = GumbelSampling(seeds, 1.0, 1.0, [2])(torch.zeros(3, 1), scores).argmax(-1)
        assert (sampled != 2).all()
    assert (scores[:, 2] == 100.0).all()


def test_gumbel_noise_samples_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    sampling = GumbelSampling(list(range(4000)), 2.0, 1.0, [])
    drawn = sampling(torch.zeros(4000, 1), logits.repeat(4000, 1)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / 4000
    assert torch.allclose(shares, torch.softmax(logits / 2.0, -1), atol=0.03)


def test_top_p_leaves_out_the_tail() -> None:
    logits = torch.tensor([3.0, 2.9, -2.0, -2.0])
    sampling = GumbelSampling(list(range(2000)), 1.0, 0.9, [])
    drawn = sampling(torch.zeros(2000, 1), logits.repeat(2000, 1)).argmax(-1)
    assert set(drawn.tolist()) == {0, 1}


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_weights_that_do_not_fit_are_refused(folder: Folder, change: str) -> None:
    to = server(folder)
    weights = dict(to.model.state_dict())
    name = next(iter(weights))
    tensor = weights.pop(name)
    if change == "unknown":
        weights |= {name: tensor, "model.nothing": tensor}
    with pytest.raises(RuntimeError, match="weights do not fit"):
        asyncio.run(to.load_weights(weights, 1))


def test_a_failed_batch_fails_its_requests_and_not_the_next(folder: Folder, rows: list[Row]) -> None:
    to = server(folder, batch_size=1)
    with pytest.raises(ValueError, match="top_p"):
        responses(to, folder, rows[:1], {"temperature": 1.0, "top_p": -1.0})
    (after,) = responses(to, folder, rows[:1])
    assert after.token_ids
