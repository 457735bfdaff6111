"""vLLM's own reading of what recipes lead to: `python vllm_takes.py FILE`.

The file holds the arguments of servers (`servers`), and of the engine inside the alignment (`rollouts`: the recipe's
`rollout`, and the longest sequence). vLLM's parser refuses unknown options and values; so do its engine's arguments.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from integrations.alignment.rollouts.vllm_rollout import options

given = json.loads(Path(sys.argv[1]).read_text())
parser = make_arg_parser(FlexibleArgumentParser())
for arguments in given["servers"]:
    args = parser.parse_args(arguments)
    validate_parsed_serve_args(args)
    assert AsyncEngineArgs.from_cli_args(args).generation_config == "vllm"
    print("server parsed")
for rollout, longest, folder in given["rollouts"]:
    settings = SimpleNamespace(**rollout)
    engine = EngineArgs(**options(Path(folder), settings, longest, torch.bfloat16, "cuda", settings.sleep))
    assert (engine.max_num_seqs, engine.enable_sleep_mode) == (settings.batch_size, settings.sleep)
    print("rollout parsed")
