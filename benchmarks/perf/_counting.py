"""What a piece of work costs beside its time: tokens and images run, floating-point operations, peak memory.

Each is counted in a run of its own that is not timed, because counting slows it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Work:
    """Work of one phase."""

    tokens: int = 0
    """Rows that the first text layer ran on, padding and recomputation included."""
    images: int = 0
    """Images that a vision tower encoded."""
    flops: int = 0
    """Operations of matrix products, convolutions and attention, forward and backward; a multiply-add is two."""


def count(run: Callable[[], object], *models: Any) -> Work:
    """Run it and count what it does with these models."""
    work = Work()
    mapping: dict[Any, Any] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        torch.ops.aten._grouped_mm: _grouped_product,
    }
    with _hooks(work, models), FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    work.flops = counter.get_total_flops()
    return work


@contextmanager
def _hooks(work: Work, models: tuple[Any, ...]) -> Iterator[None]:
    def tokens(_: Any, given: Any) -> None:
        work.tokens += given[0].shape[:-1].numel()

    def images(_: Any, given: Any, named: Any) -> None:
        work.images += len(named["grid_thw"])

    handles = []
    for model in models:
        handles.append(model.model.language_model.layers[0].mlp.register_forward_pre_hook(tokens))
        handles.append(model.model.visual.register_forward_pre_hook(images, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _grouped_product(left: Any, right: Any, *_: Any, **__: Any) -> int:
    """Rows that are dealt out over the groups, times each group's matrix; for weights' gradients the sums are dealt."""
    return int(2 * left[-2] * left[-1] * right[-1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two matrix products, every query with every key; grouped keys count once for each head that reads them."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[2] * (width + value[3]))


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
    """Five products in place of two, one of which is done again."""
    return _attention(query, key, value) * 5 // 2


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes of tensors alive at once, at most, beyond those alive before.

    On a GPU this is the allocator's own figure. On a CPU every allocation and release of PyTorch's allocator is read
    from its profiler and summed up, because a process's resident size keeps memory that was long released.
    """
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profiler:
        run()
    results = profiler.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    alive, peak = 0, 0
    for _, change in changes:
        alive += change
        peak = max(peak, alive)
    return peak
