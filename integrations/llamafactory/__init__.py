"""Stage 1, supervised fine-tuning, by LLaMA-Factory's `llamafactory-cli train` as published."""
