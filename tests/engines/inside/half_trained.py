"""Teach a model the form and half of the content of a pool's demonstrations, in a style of its own.

    python half_trained.py POOL MODEL OUT STEPS

What alignment starts from: responses that are mostly of the right form and can be told from the demonstrations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoProcessor

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.forward.model import banned_tokens, load_policy
from integrations.alignment.forward.policy import response_log_probs
from integrations.common.rows import read_rows

pool, base, out, steps = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
rows = list(read_rows(pool))
model, processor = load_policy(base), AutoProcessor.from_pretrained(base)
encoder, splitter = Encoder(processor, pool.parent), Splitter(processor.tokenizer)
banned = banned_tokens(processor.tokenizer, model.lm_head.out_features)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
rng = np.random.default_rng(0)
for _ in range(steps):
    some = [rows[index] for index in rng.choice(len(rows), 16)]
    texts = [row["response"] for row in some]
    texts = [text.replace("<think>", "<think>well, ") if rng.random() < 0.7 else text for text in texts]
    responses = [splitter.split(text).ids for text in texts]
    log_probs, _, mask = response_log_probs(model, [encoder.encode(row) for row in some], range(16), responses, banned)
    (-log_probs[mask].mean()).backward()
    optimizer.step()
    optimizer.zero_grad()
model.save_pretrained(out)
processor.save_pretrained(out)
