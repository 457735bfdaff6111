"""vLLM as an inference server on GPUs, run in its own environment."""
