"""What has never run on a GPU: one list, told by `prism doctor` and README.md, each with the test that will settle it.

An entry leaves the list once its test has passed on a GPU and the figures stand in `benchmarks/perf/RESULTS.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prism_cli.doctor.diagnosis import Diagnosis

SUBJECT = "unverified on GPU"
RUN = "in a clone of the repository: .venv/bin/python -m pytest -m gpu"


@dataclass(frozen=True)
class Unverified:
    """One path through the engines."""

    name: str
    what: str
    """What is different on a GPU, one phrase."""
    test: str
    """File and name of the test marked `gpu` that runs it, as pytest takes it."""


_TORCH, _ENGINES = "tests/torch/test_gpu.py", "tests/engines/test_gpu.py"
UNVERIFIED = (
    Unverified(
        "alignment in fp32 and bf16",
        "both players' passes and gradients, prompts shared, vision frozen to the bit",
        f"{_TORCH}::test_one_step_of_both_players_is_the_same_on_both_devices",
    ),
    Unverified(
        "alignment's experts",
        "one grouped matrix product for all of them",
        f"{_TORCH}::test_shared_prompts_equal_transformers_one_sequence_at_a_time",
    ),
    Unverified(
        "alignment's moments",
        "in pinned host memory, and in 8 bits by bitsandbytes' CUDA kernels",
        f"{_TORCH}::test_moments_elsewhere_or_in_less_memory",
    ),
    Unverified(
        "alignment resumed",
        "from checkpoints, to a stated share of a step instead of the same bytes",
        f"{_TORCH}::test_a_game_killed_and_resumed_goes_on_the_same",
    ),
    Unverified(
        "alignment on several GPUs",
        "FSDP2 over NCCL",
        f"{_TORCH}::test_processes_on_gpus_of_their_own_learn_what_one_does",
    ),
    Unverified(
        "alignment's rollouts by vLLM",
        "weights replaced in place, sleep and wake, CUDA graphs",
        f"{_ENGINES}::test_the_game_with_vllm_that_sleeps_while_the_trainer_works",
    ),
    Unverified(
        "SFT by LLaMA-Factory",
        "bf16, flash attention where it is installed, one process for each GPU",
        f"{_ENGINES}::test_fine_tuning_in_bf16",
    ),
    Unverified(
        "RLVR by verl",
        "verl's own vLLM rollout, FSDP2 with bf16 arithmetic, weights handed over on the GPU",
        f"{_ENGINES}::test_reinforcement_learning_with_verls_own_rollout",
    ),
    Unverified(
        "evaluation by vLLM",
        "the server that `prism eval` starts, one copy on each GPU",
        f"{_ENGINES}::test_vllm_serves_what_the_harness_asks",
    ),
    Unverified(
        "a judge on a GPU of its own",
        "served beside an evaluation that has the other GPUs",
        f"{_ENGINES}::test_a_judge_on_a_gpu_of_its_own",
    ),
    Unverified(
        "the whole pipeline",
        "the digits world's quick profile with every stage on the GPU",
        f"{_ENGINES}::test_the_quick_pipeline_on_the_gpu",
    ),
)


def examine(gpus: int) -> Iterator[Diagnosis]:
    """One line where there is no GPU to run anything of it on, else one for each path."""
    if not gpus:
        found = f"{len(UNVERIFIED)} paths that only a GPU runs have never been run; README.md lists them"
        yield Diagnosis(SUBJECT, "note", found)
        return
    for path in UNVERIFIED:
        yield Diagnosis(SUBJECT, "note", f"{path.name}: {path.what}", RUN)


def table() -> str:
    """The section of README.md, as Markdown."""
    rows = [f"| {path.name} | {path.what} | `{path.test.partition('::')[0]}` |" for path in UNVERIFIED]
    return "\n".join(["| path | what is different there | tests |", "|---|---|---|", *rows])
