"""Passes through a Qwen3-VL: each prompt once for all its responses, each image once."""
