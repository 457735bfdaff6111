"""verl on a machine without a GPU, for laptops and tests: what verl lacks there, added through its plug-in points.

Trainer, advantages, losses, FSDP2, checkpoints, agent loop and reward loop are verl's own; ours are three things:

- `platform.py`: a device layer called `cpu`, through `verl.plugin.platform.PlatformRegistry`;
- `rollout.py`: generation by transformers in a Ray actor, through `RolloutReplicaRegistry`;
- `engine.py`: the FSDP2 engine for device `cpu`, through `EngineRegistry`, and the gloo process group.

Where verl has no public plug-in point a private name is touched (`EXCEPTIONS`); a test compares each with the installed
verl, so that a new version fails loudly instead of misbehaving. Nothing here is used when there is a GPU, and a run on
CPU says nothing about the vLLM rollout, NCCL, flash attention or memory on one.
"""

VERL_VERSION = "0.9.1"
"""The version this package was written against."""

EXCEPTIONS = {
    "verl.workers.rollout.base._ROLLOUT_REGISTRY": "dict from (rollout name, mode) to the class in the training worker "
    "that pushes weights; `rollout.py` adds one entry",
    "verl.workers.engine.fsdp.transformer_impl.FSDPEngine._build_fsdp_module": "overridden by `engine.py`, which sets "
    "`engine_config.forward_only` (a field verl lets change) to False meanwhile: True asks for pinned memory, which "
    "needs a CUDA driver",
}
"""Private names of verl, and what is done with them."""
