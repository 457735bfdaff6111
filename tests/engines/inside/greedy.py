"""Greedy responses as training makes them: `python greedy.py OUT.json MODEL POOL LIMIT MAX_NEW_TOKENS`.

The pool's first rows; a list of texts.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch

from integrations.alignment.forward.model import load_policy, load_processor
from integrations.alignment.rollouts.rollout import generate
from integrations.common.rows import read_rows

out, model, pool = map(Path, sys.argv[1:4])
limit, longest = map(int, sys.argv[4:])
torch.set_num_threads(1)
rows = list(islice(read_rows(pool), limit))
groups = generate(
    load_policy(model, "cpu"),
    load_processor(model),
    rows,
    pool.parent,
    temperature=0.0,
    max_new_tokens=longest,
    seeds=[0] * limit,
)
out.write_text(json.dumps([generation.text for [generation] in groups]))
