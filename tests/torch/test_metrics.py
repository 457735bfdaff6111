"""What a step reports beside its losses: speed against the hardware, counts, and content apart from style."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.game import metrics
from integrations.alignment.game.contest import Scores, pair_up
from integrations.alignment.rollouts.rollout import Generation
from tests.torch.conftest import response
from tests.torch.test_discriminator import build
from tests.torch.test_game import World


def seen(encoder: Encoder, world: World) -> metrics.Seen:
    """Two prompts: to the first a right response, one with a wrong answer, one with a wrong caption, one without
    form; to the second two right ones, a copy of the demonstration, and one that was cut."""
    splitter, rows, groups = Splitter(encoder.tokenizer), world[1][:2], []
    for row in rows:
        a, b = (int(digit) for digit in row["response"][9:12].split())
        whole = row["response"]
        wrong = response(f"{a} {b}", f"{a}+{b}=99", "99")
        other = response("1 1 1", "1+1+1=3", "3")
        wordy = response(f"I see {a} and {b}", f"so {a}+{b}={a + b}", str(a + b))
        groups.append([whole, wrong, other, "no form"] if row is rows[0] else [wordy, wordy, whole, whole])
    ids = [[encoder.tokenizer(text, add_special_tokens=False)["input_ids"] for text in group] for group in groups]
    cut = (1, 3)
    generations = [
        [Generation(ids[g][n], text, (g, n) != cut) for n, text in enumerate(group)] for g, group in enumerate(groups)
    ]
    segments = [[splitter.split(item.text) if item.finished else None for item in group] for group in generations]
    teachers = [splitter.split(row["response"]) for row in rows]
    students = [item for group in segments for item in group if item is not None]
    return metrics.Seen(generations, segments, teachers, students, rows, [10, 20])  # type: ignore[arg-type]


def test_form_is_counted(encoder: Encoder, world: World) -> None:
    one = seen(encoder, world)
    found = metrics.response_metrics(one)
    assert (found["valid"], found["truncated"]) == (6 / 8, 1 / 8)
    step = dict.fromkeys(metrics.COUNTED, 0.0) | {"discriminator_scale": 0.8}
    totals = metrics.counts(step, one)
    assert {name: totals[name] for name in ("responses", "groups", "truncated", "invalid")} == {
        "responses": 8.0,
        "groups": 2.0,
        "truncated": 1.0,
        "invalid": 1.0,
    }
    assert (totals["discriminator_slowed"], totals["discriminator_hastened"]) == (1.0, 0.0)
    both = metrics.join([one, one])
    assert (both.tokens, len(both.rows), both.prompt_tokens) == (2 * one.tokens, 4, [10, 20, 10, 20])


def test_content_is_told_from_style(encoder: Encoder, world: World) -> None:
    """Scores that know right from wrong and nothing else; ties are the copies of the demonstration."""
    one = seen(encoder, world)
    batch = pair_up([], one.teachers, one.segments)
    right = np.array([[1, 1, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1]], float)
    found = metrics.content_metrics(one, Scores(np.ones((2, 2)), right, np.array(batch.which)))
    assert (found["caption"], found["answer"]) == (5 / 8, 4 / 8)
    assert found["right_over_wrong_perception"] == found["right_over_wrong_perception_within"] == 1.0
    assert found["right_over_wrong_reasoning"] == 1.0
    style = np.array([[0, 0, 0, 1, 1, 0]] * 2, float)
    found = metrics.content_metrics(one, Scores(np.zeros((2, 2)), style, np.array(batch.which)))
    assert found["right_over_wrong_perception_within"] == 0.5
    assert found["pair_accuracy_perception_same_style"] == 0.5
    assert not [name for name in found if name.endswith(("_low", "_high", "_pairs"))]


def test_without_a_valid_response_there_is_nothing_to_compare(encoder: Encoder, world: World) -> None:
    one = seen(encoder, world)
    empty = metrics.Seen(one.groups, [[None] * 4] * 2, one.teachers, [], one.rows, one.prompt_tokens)
    scores = Scores(np.zeros((2, 2)), np.zeros((2, 0)), np.zeros(0, np.int64))
    assert metrics.content_metrics(empty, scores) == {"caption": 0.0, "answer": 0.0}


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, tera: int) -> None:
    assert metrics.peak(name) == tera * 1e12


def test_utilisation_is_the_share_of_the_peak() -> None:
    assert metrics.peak("an unknown one") is None
    found = metrics.utilisation({"policy": 6e12}, {"seconds_policy": 2.0}, 10e12)
    assert found == {"tflops_policy": 3.0, "mfu_policy": 0.3}
    assert metrics.utilisation({"policy": 6e12}, {"seconds_policy": 2.0}, None) == {"tflops_policy": 3.0}


def test_a_token_passes_through_two_of_four_experts(policy: Any, encoder: Encoder, world: World) -> None:
    dense = metrics.active_parameters(policy)
    mlp = sum(value.numel() for name, value in policy.model.language_model.named_parameters() if ".mlp." in name)
    sparse = build(policy, encoder).backbone
    routers = sum(value.numel() for name, value in sparse.named_parameters() if ".mlp.gate." in name)
    assert metrics.active_parameters(sparse) == dense + mlp + routers
    one = seen(encoder, world)
    work = metrics.step_work(one, policy=dense, discriminator=2 * dense, learnt=True, moved=True)
    assert work["policy"] == 3 * work["rollout"] == 6.0 * dense * (30 + one.tokens)
    assert "policy" not in metrics.step_work(one, policy=1, discriminator=1, learnt=False, moved=False)
