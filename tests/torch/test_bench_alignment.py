"""The alignment benchmark: the published code's scheme computes what transformers does, and what is counted is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Qwen3VLForConditionalGeneration

from benchmarks.perf import _costs, _models, _reference, alignment
from benchmarks.perf._counting import count, peak_memory
from benchmarks.perf._timing import Options
from integrations.alignment.data.prompts import Encoder
from integrations.alignment.discriminators.discriminator import new_heads
from integrations.common.rows import Row

SIZE = _models.SIZES["tiny"]
SHAPE = SIZE.shape
PAIR = 2 * SHAPE.prompt + SHAPE.response
"""Tokens of a response's two segments, each after a prompt of its own."""


@pytest.fixture(scope="module")
def bench() -> alignment.Bench:
    return alignment.build(SIZE, "cpu", torch.float32)


@pytest.fixture(scope="module")
def step() -> _models.Step:
    return _models.step(SIZE)


def test_reference_reads_as_transformers_does(checkpoint: Path, encoder: Encoder, world: tuple[Path, list[Row]]):
    """Against the processor's own inputs and the model's own positions, with 0, 1 and 2 images."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    heads = new_heads(model.config.text_config.hidden_size, 0)
    judge = _reference.Judge(model, heads)
    for row in world[1][:3]:
        tail = encoder.tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        pictures = [Image.open(encoder.data_dir / path).convert("RGB") for path in row["images"]]
        text = encoder.text(encoder.turns(row)) + row["response"]
        given = encoder.processor(text=[text], images=pictures or None, return_tensors="pt")
        assert given["input_ids"][0, -len(tail) :].tolist() == tail
        with torch.no_grad():
            output = model(**given, output_hidden_states=True)
            expected = output.logits[0, -len(tail) - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(tail)[:, None])
            log_probs, entropies = _reference.response_log_probs(model, encoder.encode(row), tail)
            score = judge._last("reasoning", encoder.encode(row), tail)
        torch.testing.assert_close(log_probs, expected[:, 0], atol=1e-5, rtol=1e-5)
        assert (entropies > 0).all()
        last = heads["reasoning"](model.model(**given).last_hidden_state[0, -1])[0]
        torch.testing.assert_close(score, last.detach(), atol=1e-5, rtol=1e-5)


def test_both_sides_have_the_same_scores_and_gradients(bench: alignment.Bench, step: _models.Step):
    found = alignment.check(bench, step)
    assert len(found) == 5
    assert max(found.values()) < 1e-5


def test_a_difference_between_the_sides_is_found(
    bench: alignment.Bench, step: _models.Step, monkeypatch: pytest.MonkeyPatch
):
    read = _reference.inputs

    def moved(*given: Any) -> dict[str, Any]:
        inputs = read(*given)
        return inputs | {"position_ids": inputs["position_ids"] * torch.tensor([1, 2, 1])[:, None, None]}

    monkeypatch.setattr(_reference, "inputs", moved)
    with pytest.raises(AssertionError, match="different things"):
        alignment.check(bench, step)


def test_work_is_what_counting_by_hand_gives(bench: alignment.Bench, step: _models.Step):
    runs = alignment.sides(bench, step)
    work = {name: count(run, *bench.models) for name, run in runs.items()}
    shared = SHAPE.prompt + (SHAPE.group + 1) * SHAPE.response
    tokens = {
        alignment.JUDGE: 3 * SHAPE.group * PAIR,
        alignment.JUDGE_FUSED: shared,
        alignment.JUDGE_ALONE: shared,
        alignment.JUDGE_RATIO: 2 * shared,
        alignment.JUDGE_MICRO: 2 * shared,
        alignment.POLICY: 2 * SHAPE.group * (SHAPE.prompt + SHAPE.response),
        alignment.POLICY_FUSED: SHAPE.prompt + SHAPE.group * SHAPE.response,
        alignment.POLICY_MICRO: SHAPE.prompt + SHAPE.group * SHAPE.response,
    }
    assert {name: item.tokens for name, item in work.items()} == tokens
    images = dict.fromkeys(tokens, 1)
    images |= {alignment.JUDGE: 6 * SHAPE.group, alignment.POLICY: 2 * SHAPE.group, alignment.JUDGE_RATIO: 2}
    assert {name: item.images for name, item in work.items()} == images
    theirs, ours = _costs.reference(SIZE, SHAPE), _costs.ours(SIZE, SHAPE)
    assert work[alignment.JUDGE].flops == pytest.approx(theirs["discriminator"], rel=1e-3)
    assert work[alignment.POLICY].flops == pytest.approx(theirs["policy"], rel=1e-3)
    assert work[alignment.POLICY_FUSED].flops == pytest.approx(ours["policy"], rel=0.03)
    assert work[alignment.JUDGE_FUSED].flops == pytest.approx(ours["discriminator"], rel=0.1)


def test_experts_are_counted_alike_whichever_kernel_runs_them(step: _models.Step):
    flops = {}
    for kernel in ("eager", "grouped_mm"):
        bench = alignment.build(SIZE, "cpu", torch.float32)
        for model in bench.models:
            if model.config.model_type == "qwen3_vl_moe":
                model.set_experts_implementation(kernel)
        flops[kernel] = count(
            lambda bench=bench: alignment.learn(bench, alignment.JUDGE_FUSED, step), *bench.models
        ).flops
    assert flops["grouped_mm"] == flops["eager"]


def test_ratios_grow_with_prompt_and_group():
    small = _models.SIZES["small"]
    rows = [
        [_costs.ratios(small, alignment.shape_of(small, prompt, group))["step"] for group in (4, 16, 32)]
        for prompt in (64, 256, 1024)
    ]
    for row in (*rows, *zip(*rows, strict=True)):
        assert list(row) == sorted(row)


def test_peak_memory_is_what_was_alive_at_once():
    def run() -> None:
        for size in (10, 40, 20):
            first = torch.empty(size << 18)
            second = first.clone()
            del first, second

    assert peak_memory(run, "cpu") == pytest.approx(80 << 20, rel=0.01)


@pytest.mark.parametrize(("name", "text", "vision"), [("2b", 1.72e9, 0.41e9), ("4b", 4.02e9, 0.41e9)])
def test_large_sizes_have_the_published_dimensions(name: str, text: float, vision: float):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration._from_config(_models.SIZES[name].policy.config())
    counted = sum(value.numel() for value in model.model.visual.parameters())
    assert counted == pytest.approx(vision, rel=0.02)
    assert sum(value.numel() for value in model.model.language_model.parameters()) == pytest.approx(text, rel=0.01)


def test_sizes_whose_graph_does_not_fit_are_measured_in_parts():
    bench = alignment.build(replace(SIZE, fits=False), "cpu", torch.float32)
    names = {*alignment.sides(bench, _models.step(SIZE))}
    assert names == {alignment.JUDGE, alignment.JUDGE_MICRO, alignment.POLICY, alignment.POLICY_MICRO}
    assert {*bench.ours} < names


def test_result_has_the_ratios_and_tables(tmp_path: Path):
    found = alignment.measure(Options(1, {}, tmp_path, "tiny"))
    assert {*found["ratios"]} == {"discriminator", "policy", "step", "memory"}
    assert {*found["micro"]} == {"discriminator", "policy", "step"}
    assert {*found["phases"]} == {*found["seconds"]}
    assert [len(table["rows"]) for table in found["tables"]] == [8, 9, 1]
    assert sum("seconds" in row for row in found["growth"]) == len(SIZE.measured) == 1
    for table in found["tables"]:
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
