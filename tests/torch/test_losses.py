"""Losses against what they are defined to be, and measures that do not flatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from integrations.alignment.game import losses


def test_every_valid_pair_weighs_the_same() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    which = torch.tensor([0, 0, 0, 1, 2])
    expected = 0.0
    for role in range(2):
        pairs = [-torch.nn.functional.logsigmoid(teacher[role, p] - student[role, r]) for r, p in enumerate(which)]
        expected += sum(pairs) / 5
    expected += 0.1 * (teacher.pow(2).mean() + student.pow(2).mean())
    torch.testing.assert_close(losses.discriminator_loss(teacher, student, which, 0.1, (3, 5)), expected)


def test_equal_scores_cost_log_two_per_role() -> None:
    zero = losses.discriminator_loss(
        torch.zeros(2, 1), torch.zeros(2, 4), torch.zeros(4, dtype=torch.int64), 1e-3, (1, 4)
    )
    assert float(zero) == pytest.approx(2 * np.log(2))


def test_large_scores_keep_their_gradient() -> None:
    student = torch.full((2, 1), 40.0, requires_grad=True)
    losses.discriminator_loss(torch.zeros(2, 1), student, torch.zeros(1, dtype=torch.int64), 0.0, (1, 1)).backward()
    assert (student.grad > 0.99).all()


def test_cut_scores_have_no_gradient() -> None:
    student = torch.tensor([[40.0, 1.0]] * 2, requires_grad=True)
    which = torch.zeros(2, dtype=torch.int64)
    losses.discriminator_loss(torch.zeros(2, 1), student, which, 1e-3, (1, 2), clip=10.0).backward()
    assert student.grad is not None
    assert (student.grad[:, 0] == 0).all()
    assert (student.grad[:, 1] > 0).all()


def test_importance_weights_are_capped_ratios_without_gradient() -> None:
    trainer = torch.tensor([[-1.0, -1.0, -3.0]], requires_grad=True)
    weights = losses.importance_weights(trainer, torch.tensor([[-1.0, -4.0, -1.0]]), 2.0)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 2.0, float(np.exp(-2.0))]]))
    assert not weights.requires_grad


def test_importance_weights_undo_the_engines_own_distribution() -> None:
    """The mean of weighted samples of another distribution is the mean under the trained one."""
    rng = np.random.default_rng(0)
    trained, engine = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.35, 0.25])
    drawn = rng.choice(3, 20000, p=engine)
    logs = [torch.tensor(np.log(values[drawn]))[None] for values in (trained, engine)]
    weights = losses.importance_weights(*logs, 2.0)[0].numpy()
    value = np.array([5.0, -2.0, 1.0])
    assert float((weights * value[drawn]).mean()) == pytest.approx(float(trained @ value), abs=0.06)
    assert float(value[drawn].mean()) == pytest.approx(float(engine @ value), abs=0.06)
    assert abs(float(trained @ value) - float(engine @ value)) > 0.5


def test_balance_is_one_when_balanced_and_more_when_not() -> None:
    tokens, allowed = torch.tensor([12.0]), torch.ones(1, 4, dtype=torch.bool)
    even = losses.balance_loss(torch.full((2, 1, 4), 6.0), torch.full((2, 1, 4), 3.0), tokens, allowed)
    assert float(even) == pytest.approx(1)
    assigned = torch.tensor([[[12.0, 12.0, 0.0, 0.0]]])
    skewed = losses.balance_loss(assigned, torch.tensor([[[6.0, 6.0, 0.0, 0.0]]]), tokens, allowed)
    assert float(skewed) == pytest.approx(2)
    three = torch.tensor([[True, True, True, False]])
    role = losses.balance_loss(
        torch.tensor([[[8.0, 8.0, 8.0, 0.0]]]), torch.tensor([[[4.0, 4.0, 4.0, 0.0]]]), tokens, three
    )
    assert float(role) == pytest.approx(1)


def test_policy_loss_is_a_mean_over_all_tokens_of_the_step() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, 0.0], [-3.0, 0.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    weights = torch.tensor([[1.0, -1.0, 99.0], [2.0, 99.0, 99.0]])
    whole = losses.policy_loss(log_probs, weights, mask, 3)
    assert whole.item() == pytest.approx(-(-1.0 + 2.0 - 6.0) / 3)
    parts = [losses.policy_loss(log_probs[r : r + 1], weights[r : r + 1], mask[r : r + 1], 3) for r in range(2)]
    torch.testing.assert_close(whole, sum(parts))


def test_kl_is_zero_for_equal_policies_and_never_negative() -> None:
    torch.manual_seed(0)
    one, other, mask = torch.randn(4, 6), torch.randn(4, 6), torch.ones(4, 6, dtype=torch.bool)
    assert float(losses.kl_loss(one, one, mask, 24)) == 0
    for r in range(4):
        assert float(losses.kl_loss(one[r : r + 1], other[r : r + 1], mask[r : r + 1], 6)) > 0


def test_ties_count_a_half() -> None:
    assert losses.pair_accuracy(np.array([0.0, 1e-7, -1e-7, 5.0])).value == pytest.approx(0.625)
    assert losses.pair_accuracy(np.zeros(100)).value == 0.5
    assert losses.decided(np.array([[0.0, 1e-7], [5.0, -5.0]])) == (1, 2)
    assert losses.decided_margin(np.array([0.0, 1e-7, 5.0, -4.0])) == 0.5
    assert losses.decided_margin(np.zeros(3)) is None
    assert losses.separation(np.zeros(4), np.array([True, True, False, False])) == 0.5


def test_intervals_cover_and_an_empty_sample_knows_nothing() -> None:
    assert losses.wilson(0, 0) == losses.Share(0.5, 0.0, 1.0, 0)
    rng = np.random.default_rng(0)
    hits = sum(s.low <= 0.7 <= s.high for s in (losses.wilson(rng.binomial(64, 0.7), 64) for _ in range(2000)))
    assert 0.93 < hits / 2000 < 0.975


def test_separation_within_prompts_ignores_differences_between_them() -> None:
    scores = np.array([10.0, 11.0, 1.0, 0.0])
    right = np.array([False, True, True, False])
    groups = np.array([0, 0, 1, 1])
    assert losses.separation(scores, right, groups) == 1.0
    assert losses.separation(scores, right) == 0.75
    assert losses.separation(scores, np.ones(4, bool)) is None
