"""Mean loss of a model over all response tokens of a pool, row by row: `python loss.py MODEL POOL OUT.json`."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model_dir, pool, out = map(Path, sys.argv[1:])
model = AutoModelForImageTextToText.from_pretrained(model_dir, dtype="auto").eval()
processor = AutoProcessor.from_pretrained(model_dir)
total, count = 0.0, 0
for row in map(json.loads, pool.read_text().splitlines()):
    content = [{"type": "image"} for _ in row["images"]] + [{"type": "text", "text": row["prompt"]}]
    turns = [{"role": "system", "content": row["system"]}] if row["system"] else []
    turns.append({"role": "user", "content": content})
    prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images = [Image.open(pool.parent / image).convert("RGB") for image in row["images"]] or None
    inputs = processor(text=[prompt + row["response"] + "<|im_end|>\n"], images=images, return_tensors="pt")
    length = len(processor.tokenizer(row["response"] + "<|im_end|>\n", add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        logits = model(**inputs).logits[0, -length - 1 : -1]
    total += torch.nn.functional.cross_entropy(logits, inputs["input_ids"][0, -length:], reduction="sum").item()
    count += length
out.write_text(json.dumps({"loss": total / count, "tokens": count}))
