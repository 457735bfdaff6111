"""Shared prompts and parted graphs against transformers' own forward pass, one sequence at a time.

The plain side calls the stock model on prompt and continuation together, with pixels, for every sequence anew: no
cache, no packing, and nothing of the engine but the routers. In float64 both agree to rounding; there the modules of
the test model that compute in float32 whatever their weights are (norms, the vision tower's rotation) are replaced by
exact ones. No token lies so near to a tie of its router that rounding could send it elsewhere, which is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from integrations.alignment.data.prompts import Encoder, Prompt
from integrations.alignment.data.segments import Segments, Splitter
from integrations.alignment.discriminators.description import Description
from integrations.alignment.discriminators.discriminator import Discriminator, new_heads
from integrations.alignment.discriminators.upcycle import upcycle
from integrations.alignment.forward import batching
from integrations.alignment.forward.batching import Limits
from integrations.alignment.forward.model import banned_tokens, load_policy
from integrations.alignment.forward.policy import Part, policy_gradient
from integrations.alignment.game import contest, losses
from integrations.alignment.rollouts.rollout import Rollouts, Sampling
from integrations.alignment.training.world import World as Alone
from integrations.common.rows import Row

World = tuple[Path, list[Row]]
Gradients = dict[str, torch.Tensor]

VALID = (2, 0, 3, 1, 4)
"""Valid responses of the five prompts, which have 0, 1, 2, 0 and 1 images."""
ALONE = {"score": "head", "heads": "shared", "positions": "text", "reasoning": "alone", "routing": "free"}
KINDS = {"likelihood_ratio": {}, "head": {"score": "head"}, "paper": ALONE}
PARTED = [Limits(2), Limits(5, 3), Limits(2, 1), Limits(1, 4)]
"""Of 5 prompts and 15 sequences: some prompts at a time, some sequences of all prompts, and both."""


class ExactNorm(nn.Module):
    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.weight, self.epsilon = original.weight, original.variance_epsilon

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.weight * values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + self.epsilon)


class ExactVisionAttention(nn.Module):
    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = original.qkv, original.proj, original.num_heads

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any, **_: Any) -> Any:
        cos, sin = (one[:, None].to(hidden) for one in position_embeddings)
        query, key, value = self.qkv(hidden).unflatten(1, (3, self.heads, -1)).unbind(1)

        def turned(x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2, -1)
            return x * cos + torch.cat([-second, first], -1) * sin

        lengths = cu_seqlens.diff().tolist()
        images = zip(*(one.split(lengths) for one in (turned(query), turned(key), value)), strict=True)
        seen = [F.scaled_dot_product_attention(*(one.transpose(0, 1) for one in image)) for image in images]
        return self.proj(torch.cat([one.transpose(0, 1).flatten(1) for one in seen]))


def exact(model: Any) -> Any:
    """The model in float64 throughout."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            kind = type(child).__name__
            if kind.endswith("RMSNorm"):
                setattr(module, name, ExactNorm(child))
            elif kind.endswith("VisionAttention"):
                setattr(module, name, ExactVisionAttention(child))
    return model.double()


@dataclass
class Case:
    """A discriminator, a step of it, and the policy that it judges."""

    discriminator: Discriminator
    batch: contest.Batch
    policy: Any

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.batch.prompts), len(self.batch.students)


def make_case(
    checkpoint: Path,
    encoder: Encoder,
    world: World,
    words: dict[str, Any],
    dtype: torch.dtype,
    experts: str | None = "eager",
    device: str = "cpu",
) -> Case:
    """The models in `dtype` on `device`; `experts` None leaves the kernel to the engine."""
    policy = load_policy(checkpoint, device)
    backbone = upcycle(policy, experts=4, top_k=2, noise=0.05, router_std=0.5, seed=0)
    if dtype == torch.float64:
        policy, backbone = exact(policy), exact(backbone)
    names = {"experts": 4, "top_k": 2, "reference": "reference", "tokenizer": "tokenizer", "held_out": 16}
    description = Description(**(names | words))
    banned = banned_tokens(encoder.tokenizer, policy.lm_head.out_features)
    heads = new_heads(32, 0, description.heads, device).to(dtype) if description.score == "head" else None
    reference = copy.deepcopy(policy).requires_grad_(False) if heads is None else None
    discriminator = Discriminator(backbone, description, banned, reference=reference, heads=heads)
    if experts is not None:
        backbone.set_experts_implementation(experts)
    rows, splitter = world[1], Splitter(encoder.tokenizer, description.reasoning, description.terminator)
    texts = [row["response"].replace("<think>", "<think>" + "so " * (index % 5)) for index, row in enumerate(rows)]
    found = [splitter.split(text) for text in texts]
    segments = [item for item in found if item is not None]
    which = [index for index, count in enumerate(VALID) for _ in range(count)]
    prompts = [encoder.encode(row) for row in rows[:5]]
    batch = contest.Batch(prompts, segments[:5], segments[5 : 5 + len(which)], which)
    return Case(discriminator, batch, policy)


def plain_states(model: Any, prompt: Prompt, tail: tuple[int, ...], positions: str = "multimodal") -> torch.Tensor:
    """(T, H): the states that predict the tail's tokens and, last, the one after it, by transformers alone."""
    device = model.lm_head.weight.device
    ids = torch.from_numpy(np.concatenate([prompt.ids, np.asarray(tail)]))[None].to(device)
    options: dict[str, Any] = {}
    if len(prompt.grids):
        pixels, grids = prompt.patches.to(model.lm_head.weight), prompt.grids.to(device)
        options = {"pixel_values": pixels, "image_grid_thw": grids}
        options["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    if positions == "text":
        options["position_ids"] = torch.arange(ids.shape[1], device=device).expand(3, 1, -1)
    hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **options)
    return hidden.last_hidden_state[0, len(prompt.ids) - 1 :]


def plain_log_probs(model: Any, states: torch.Tensor, tail: tuple[int, ...], banned_V: torch.Tensor) -> torch.Tensor:
    logits = model.lm_head(states[:-1]).masked_fill(banned_V, -torch.inf)
    return logits.log_softmax(-1)[torch.arange(len(tail)), torch.tensor(tail)]


def plain_score(discriminator: Discriminator, prompt: Prompt, item: Segments) -> torch.Tensor:
    """(2,) one response's scores, from one or two sequences of its own."""
    words, cut = discriminator.description, item.perception
    rows = [item.ids] if words.reasoning == "after_caption" else [item.ids[:cut], item.ids[cut:]]
    found = []
    for row, ids in enumerate(rows):
        boundary = cut if row == 0 else 0
        kinds = [0] * len(prompt.ids) + [1] * boundary + [2] * (len(ids) - boundary)
        discriminator.routing.set_kinds(torch.tensor(kinds, device=discriminator.banned_V.device))
        states = plain_states(discriminator.backbone, prompt, ids, words.positions)
        if discriminator.heads is None:
            banned = discriminator.banned_V
            ratio = plain_log_probs(discriminator.backbone, states, ids, banned)
            with torch.no_grad():
                other = plain_states(discriminator.reference, prompt, ids)
                other = plain_log_probs(discriminator.reference, other, ids, banned)
            ratio = ratio - other
            found += [ratio[:boundary].sum(), ratio[boundary:].sum()]
        else:
            heads = [discriminator.heads["shared" if words.heads == "shared" else role] for role in contest.ROLES]
            read = [(heads[0], cut), (heads[1], len(item.ids))] if len(rows) == 1 else [(heads[row], len(ids))]
            found += [head(states[place])[0] for head, place in read]
    return torch.stack(found)


def plain_learn(case: Case, regulariser: float) -> tuple[torch.Tensor, Gradients]:
    batch, discriminator = case.batch, case.discriminator
    teachers = [plain_score(discriminator, p, item) for p, item in zip(batch.prompts, batch.teachers, strict=True)]
    students = [
        plain_score(discriminator, batch.prompts[p], item) for p, item in zip(batch.which, batch.students, strict=True)
    ]
    loss = torch.zeros((), device=discriminator.banned_V.device)
    for index, student in zip(batch.which, students, strict=True):
        loss = loss - F.logsigmoid(teachers[index] - student).sum() / len(students)
    for side in (teachers, students):
        loss = loss + regulariser * sum(score.square().sum() for score in side) / len(side) / 2
    return torch.stack([*teachers, *students], 1).detach(), gradients_of(discriminator, loss.backward)


def gradients_of(model: Any, run: Callable[[], Any]) -> Gradients:
    for _, value in model.named_parameters():
        value.grad = None
    run()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def learn(case: Case, limits: Limits, regulariser: float, balance: float = 0.0) -> tuple[torch.Tensor, Gradients]:
    """The engine's scores and gradients."""
    objective = contest.Objective(regulariser, balance, limits.prompts, limits.branches, counts=case.counts)
    method = contest._fused if limits == Limits(5) else contest._in_parts
    found: list[Any] = []
    gradients = gradients_of(
        case.discriminator, lambda: found.extend(method(case.discriminator, case.batch, objective, Alone()))
    )
    return found[0], gradients


def assert_equal(found: Gradients, expected: Gradients, tolerance: float) -> None:
    """Each parameter's gradient to a share of its own size, and of the whole gradient's where it is nearly zero."""
    assert found.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * torch.maximum(value.norm(), 1e-3 * whole), name


@contextmanager
def router_gaps(discriminator: Discriminator) -> Iterator[list[float]]:
    """The smallest distances between the last expert taken and the first one left, in logits."""
    gaps: list[float] = []

    def look(_: Any, __: Any, output: Any) -> None:
        ordered = output[0].detach().sort(descending=True).values
        gap = ordered[:, 1] - ordered[:, 2]
        gaps.append(float(gap.min()))

    layers = discriminator.backbone.model.language_model.layers
    hooks = [layer.mlp.gate.register_forward_hook(look) for layer in layers]
    yield gaps
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("words", KINDS.values(), ids=KINDS.keys())
def test_scores_and_gradients_equal_the_stock_model_on_one_sequence_at_a_time(
    checkpoint: Path, encoder: Encoder, world: World, words: dict[str, Any]
) -> None:
    case = make_case(checkpoint, encoder, world, words, torch.float64)
    with router_gaps(case.discriminator) as gaps:
        scores, expected = plain_learn(case, 1e-2)
    assert min(gaps) > 1e-8
    for limits in (Limits(5), *PARTED):
        found, gradients = learn(case, limits, 1e-2)
        torch.testing.assert_close(found, scores, atol=1e-12, rtol=1e-12)
        assert_equal(gradients, expected, 1e-10)
    case.discriminator.save_memory(SimpleNamespace(head_chunk=7, gradient_checkpointing=True))
    for limits in (Limits(5), Limits(2, 3)):
        with sizes(case.discriminator.backbone.lm_head, rows_given) as heads:
            found, gradients = learn(case, limits, 1e-2)
        assert max(heads, default=0) <= 7
        torch.testing.assert_close(found, scores, atol=1e-12, rtol=1e-12)
        assert_equal(gradients, expected, 1e-10)


@contextmanager
def sizes(module: Any, of: Callable[[Any, Any], int]) -> Iterator[list[int]]:
    """What each call of a module is given, by `of(arguments, options)`; repetitions in a backward pass count too."""
    found: list[int] = []
    hook = module.register_forward_pre_hook(
        lambda _, arguments, options: found.append(of(arguments, options)), with_kwargs=True
    )
    yield found
    hook.remove()


def rows_given(arguments: Any, _: Any) -> int:
    return len(arguments[0].reshape(-1, arguments[0].shape[-1]))


def test_balance_gradients_do_not_depend_on_how_the_step_is_parted(
    checkpoint: Path, encoder: Encoder, world: World
) -> None:
    case = make_case(checkpoint, encoder, world, {}, torch.float64)
    _, without = learn(case, Limits(5), 0.0)
    _, expected = learn(case, Limits(5), 0.0, balance=5.0)
    router = "model.language_model.layers.1.mlp.gate.weight"
    assert (expected[router] - without[router]).norm() > 1e-2 * expected[router].norm()
    for checkpointed in (False, True):
        if checkpointed:
            batching.checkpoint_layers(case.discriminator.backbone, case.discriminator.routing.again)
        for limits in (Limits(5), *PARTED):
            assert_equal(learn(case, limits, 0.0, balance=5.0)[1], expected, 1e-10)


@pytest.mark.parametrize("experts", ["eager", "grouped_mm", "batched_mm"])
def test_float32_by_every_kernel(checkpoint: Path, encoder: Encoder, world: World, experts: str) -> None:
    scores, expected = plain_learn(make_case(checkpoint, encoder, world, {}, torch.float64), 1e-2)
    case = make_case(checkpoint, encoder, world, {}, torch.float32, experts)
    with router_gaps(case.discriminator) as gaps:
        results = [learn(case, limits, 1e-2) for limits in (Limits(5), Limits(2, 3))]
    assert min(gaps) > 1e-5
    for found, gradients in results:
        torch.testing.assert_close(found.double(), scores, atol=2e-4, rtol=0.0)
        assert_equal({name: value.double() for name, value in gradients.items()}, expected, 2e-4)


def test_scores_do_not_move_with_order_or_batching(checkpoint: Path, encoder: Encoder, world: World) -> None:
    case = make_case(checkpoint, encoder, world, {}, torch.float64)
    prompts, (which, segments) = case.batch.prompts, case.batch.branches
    expected = case.discriminator.score(prompts, which, segments).detach()
    order = np.random.default_rng(0).permutation(len(which))
    shuffled = case.discriminator.score(
        prompts[::-1], [len(prompts) - 1 - which[r] for r in order], [segments[r] for r in order]
    )
    torch.testing.assert_close(shuffled.detach(), expected[:, order], atol=1e-12, rtol=1e-12)
    alone = [case.discriminator.score([prompts[p]], [0], [item]) for p, item in zip(which, segments, strict=True)]
    torch.testing.assert_close(torch.cat(alone, 1).detach(), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("limits", [Limits(5), *PARTED], ids=str)
def test_each_image_is_seen_once_and_each_pass_holds_what_was_asked_for(
    checkpoint: Path, encoder: Encoder, world: World, limits: Limits
) -> None:
    case = make_case(checkpoint, encoder, world, {}, torch.float32)
    backbone, batch = case.discriminator.backbone, case.batch
    layer = backbone.model.language_model.layers[0]
    with sizes(backbone.model.visual, rows_given) as encodes, sizes(layer, rows_given) as passes:
        learn(case, limits, 1e-2)
    assert encodes == [sum(len(prompt.patches) for prompt in batch.prompts)]
    once, parted = [], []
    for part in limits.parts(5):
        read = sum(len(batch.prompts[index].ids) for index in part)
        branches = [len(batch.branches[1][column].ids) for column in batch.columns(part)]
        groups = [sum(branches[index] for index in group) for group in limits.groups(len(branches))]
        once, parted = [*once, read, sum(branches)], [*parted, read, *groups]
    assert passes == (once if limits == Limits(5) else once + parted)


def policy_loss_of(weights: list[torch.Tensor], kl: float, total: int) -> Callable[[Part], torch.Tensor]:
    def loss(part: Part) -> torch.Tensor:
        weights_RT = torch.zeros_like(part.log_probs_RT, requires_grad=False)
        for place, row in enumerate(part.rows):
            weights_RT[place, : len(weights[row])] = weights[row]
        found = losses.policy_loss(part.log_probs_RT, weights_RT, part.mask_RT, total)
        if part.reference_RT is not None:
            found = found + kl * losses.kl_loss(part.log_probs_RT, part.reference_RT, part.mask_RT, total)
        return found

    return loss


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_policy_gradients_equal_the_stock_model_on_one_sequence_at_a_time(
    checkpoint: Path, encoder: Encoder, world: World, kl: float
) -> None:
    case = make_case(checkpoint, encoder, world, {}, torch.float64)
    policy, banned, batch = case.policy, case.discriminator.banned_V, case.batch
    reference = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        reference.model.language_model.layers[0].mlp.down_proj.weight.mul_(1.3)
    responses = [item.ids for item in batch.students]
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(len(ids), generator=rng, dtype=torch.float64) for ids in responses]
    total = sum(map(len, responses))

    def plain() -> None:
        for index, ids, weight in zip(batch.which, responses, weights, strict=True):
            states = plain_states(policy, batch.prompts[index], ids)
            log_probs = plain_log_probs(policy, states, ids, banned)
            loss = -(weight * log_probs).sum() / total
            if kl:
                with torch.no_grad():
                    other = plain_states(reference, batch.prompts[index], ids)
                    other = plain_log_probs(reference, other, ids, banned)
                loss = loss + kl * ((other - log_probs).exp() - (other - log_probs) - 1).sum() / total
            loss.backward()

    expected = gradients_of(policy, plain)
    loss, chunk = policy_loss_of(weights, kl, total), 7

    def ours(limits: Limits) -> Callable[[], None]:
        arguments = (batch.prompts, batch.which, responses, loss, banned, limits)
        return lambda: policy_gradient(policy, *arguments, reference=reference if kl else None)

    for limits in (Limits(5), Limits(5, head_chunk=chunk), Limits(2, 1, chunk), Limits(5, 3), Limits(1, 2)):
        with sizes(policy.lm_head, rows_given) as heads, sizes(policy.model.visual, rows_given) as encodes:
            assert_equal(gradients_of(policy, ours(limits)), expected, 1e-10)
        assert max(heads) <= limits.head_chunk
        assert len(encodes) == 1
    batching.checkpoint_layers(policy)
    layer = policy.model.language_model.layers[0]
    for limits in (Limits(5), Limits(2, 3)):
        with sizes(layer.mlp, rows_given) as passes:
            assert_equal(gradients_of(policy, ours(limits)), expected, 1e-10)
        prompts = sum(len(prompt.ids) for prompt in batch.prompts)
        assert sum(passes) == 2 * (prompts + total), "each layer is run once more in the backward pass"


def test_decoding_keeps_its_cache_where_layers_are_computed_again(policy: Any, encoder: Encoder, world: World) -> None:
    rollouts, sampling = Rollouts(policy, encoder), Sampling(max_new_tokens=12)
    layer = policy.model.language_model.layers[0]
    expected = rollouts.sample(world[1][:3], 2, sampling, [0, 1, 2], 6)
    batching.checkpoint_layers(policy)
    prompt = encoder.encode(world[1][1])
    batching.read_prompts(policy, [prompt]).last_BH.sum().backward()
    with sizes(layer.mlp, rows_given) as passes:
        assert rollouts.sample(world[1][:3], 2, sampling, [0, 1, 2], 6) == expected
    assert max(passes[1:]) <= 6, "a token for each response at a time"
