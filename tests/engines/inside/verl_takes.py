"""verl's own reading of rendered configurations: `python verl_takes.py FOLDER`, which holds `<name>/rlvr.yaml`.

Composes each as a launch would and makes verl's dataclasses of its parts, whose constructors refuse what contradicts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from verl.utils.config import omega_conf_to_dataclass

from integrations.verl.check_configuration import problems, published

for path in sorted(Path(sys.argv[1]).glob("*/rlvr.yaml")):
    assert problems(path) == [], (path.parent.name, problems(path))
    with initialize_config_dir(config_dir=str(path.parent), version_base=None):
        config = compose("rlvr", overrides=["hydra.searchpath=[pkg://verl.trainer.config]"])
    omega_conf_to_dataclass(config.algorithm)
    omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    print(path.parent.name, "composed")
assert "algorithm" in published("ppo_trainer")
