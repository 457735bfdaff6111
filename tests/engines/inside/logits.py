"""What this environment makes of model folders: `python logits.py OUT.npz POOL MODEL...`.

For the pool's first two rows in one batch, prompt and response, and for model number n: `ids-n`, `mask-n` and fp32
`logits-n`, the ids that end generation `end-n`, and the number of weights that were missing or unknown `strange-n`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

out, pool, *models = map(Path, sys.argv[1:])
torch.set_num_threads(1)
rows = [json.loads(line) for line in pool.read_text().splitlines()[:2]]
images = [[Image.open(pool.parent / image).convert("RGB") for image in row["images"]] for row in rows]
result = {}
for number, folder in enumerate(models):
    model, loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    texts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}] * len(row["images"]) + [{"type": "text", "text": row["prompt"]}],
                }
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        + row["response"]
        for row in rows
    ]
    inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, padding_side="right")
    with torch.inference_mode():
        logits = model.eval()(**inputs).logits
    assert logits.dtype == torch.float32
    result[f"ids-{number}"], result[f"mask-{number}"] = inputs["input_ids"].numpy(), inputs["attention_mask"].numpy()
    result[f"logits-{number}"] = logits.numpy()
    result[f"end-{number}"] = np.asarray(model.generation_config.eos_token_id)
    result[f"strange-{number}"] = np.asarray(len(loaded["missing_keys"]) + len(loaded["unexpected_keys"]))
np.savez(out, **result)
