"""LLaMA-Factory's own reading of rendered options: `python llamafactory_takes.py FOLDER`, with `<name>/*.yaml`.

Its parsers refuse unknown options, values that are none of an option's, and options that contradict each other. Only
`use_cpu` is changed, where there is no GPU: the parser looks for one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import yaml
from llamafactory.hparams import get_infer_args, get_train_args

for path in sorted(Path(sys.argv[1]).glob("*/*.yaml")):
    given = yaml.safe_load(path.read_text())
    if path.name == "merge.yaml":
        model, _, finetuning, _ = get_infer_args(given)
        assert (model.export_dir, finetuning.finetuning_type) == (given["export_dir"], "lora")
    else:
        model, data, training, finetuning, _ = get_train_args(given | {"use_cpu": not torch.cuda.is_available()})
        assert finetuning.finetuning_type == given["finetuning_type"]
        assert training.learning_rate == given["learning_rate"]
        assert data.cutoff_len == given["cutoff_len"]
        assert bool(training.fsdp) == ("fsdp" in given)
    print(path.parent.name, path.name, "parsed")
