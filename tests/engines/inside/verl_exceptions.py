"""Compare the installed verl with what the CPU plug-in and the sampler rely on; fails by assertion."""

import dataclasses
import importlib
import inspect
from importlib.metadata import version

from integrations.verl.cpu import EXCEPTIONS, VERL_VERSION

assert version("verl") == VERL_VERSION, f"written against verl {VERL_VERSION}, found {version('verl')}"


def private(path: str) -> object:
    """What a dotted path of module, perhaps class, and name leads to."""
    owner, name = path.rsplit(".", 1)
    try:
        return getattr(importlib.import_module(owner), name)
    except ModuleNotFoundError:
        module, class_name = owner.rsplit(".", 1)
        return inspect.getattr_static(getattr(importlib.import_module(module), class_name), name)


registry, build = map(private, EXCEPTIONS)
assert isinstance(registry, dict)
assert registry[("vllm", "async")] == "verl.workers.rollout.vllm_rollout.ServerAdapter"
assert {mode for _, mode in registry} == {"async"}

source = inspect.getsource(build)
assert list(inspect.signature(build).parameters) == ["self", "module"]
assert "if self.engine_config.offload_policy or self.engine_config.forward_only:" in source
assert "CPUOffloadPolicy(pin_memory=True)" in source
assert "forward_only" in importlib.import_module("verl.workers.config").FSDPEngineConfig._mutable_fields

sampler = importlib.import_module("verl.trainer.ppo.v1.replay_buffer").ReplayBuffer
assert "poll_interval" in inspect.signature(sampler).parameters

token_output = importlib.import_module("verl.workers.rollout.replica").TokenOutput
ours = importlib.import_module("integrations.verl.cpu.server").Tokens
assert token_output.model_fields.keys() == {field.name for field in dataclasses.fields(ours)}
