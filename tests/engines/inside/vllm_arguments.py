"""What vLLM understands of a server's command line: `python vllm_arguments.py OUT.json ARGUMENT...`."""

import json
import sys
from pathlib import Path

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

args = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[2:])
validate_parsed_serve_args(args)
engine = AsyncEngineArgs.from_cli_args(args)
config = engine.create_model_config()
told = {
    "host": args.host,
    "port": args.port,
    "served_model_name": config.served_model_name,
    "max_model_len": config.max_model_len,
    "dtype": str(config.dtype),
    "seed": config.seed,
    "defaults": config.get_diff_sampling_param(),
    "images": config.multimodal_config.get_limit_per_prompt("image"),
    "videos": config.multimodal_config.get_limit_per_prompt("video"),
    "mm_processor_kwargs": config.multimodal_config.mm_processor_kwargs,
    "max_num_seqs": engine.max_num_seqs,
    "gpu_memory_utilization": engine.gpu_memory_utilization,
    "data_parallel_size": engine.data_parallel_size,
    "enable_prefix_caching": engine.enable_prefix_caching,
    "enforce_eager": config.enforce_eager,
    "enable_log_requests": args.enable_log_requests,
}
Path(sys.argv[1]).write_text(json.dumps(told))
