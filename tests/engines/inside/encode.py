"""Token ids and pixels of demonstrations: `python encode.py transformers|llamafactory MODEL POOL OUT [train.yaml]`.

`transformers` asks the model's own processor; `llamafactory` asks the engine's own loading and image code with the
stage's rendered options. Writes an .npz with `pixels-<n>` and `grid-<n>` for every row, and for `transformers` also
`ids-<n>` and the part of them that is the response, `response-<n>` (the engine keeps its own in its tokenized files).
"""

import json
import sys
from pathlib import Path

import numpy as np


def rows(pool):
    return [json.loads(line) for line in pool.read_text().splitlines()]


def by_transformers(model, pool):
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    result = {}
    for number, row in enumerate(rows(pool)):
        content = [{"type": "image"} for _ in row["images"]] + [{"type": "text", "text": row["prompt"]}]
        turns = [{"role": "user", "content": content}]
        prompt = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        images = [Image.open(pool.parent / image).convert("RGB") for image in row["images"]]
        inputs = processor(text=[prompt], images=images, return_tensors="np")
        response = processor.tokenizer(row["response"] + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
        result[f"response-{number}"] = np.asarray(response)
        result[f"ids-{number}"] = np.concatenate([inputs["input_ids"][0], response])
        result[f"pixels-{number}"] = np.asarray(inputs["pixel_values"])
        result[f"grid-{number}"] = np.asarray(inputs["image_grid_thw"])
    return result


def by_llamafactory(pool, config):
    import yaml
    from llamafactory.data.mm_plugin import get_mm_plugin
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args = get_train_args(yaml.safe_load(config.read_text()))[0]
    processor = load_tokenizer(model_args)["processor"]
    plugin = get_mm_plugin("qwen3_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    result = {}
    for number, row in enumerate(rows(pool)):
        images = [str(pool.parent / image) for image in row["images"]]
        inputs = plugin.get_mm_inputs(images, [], [], [len(images)], [0], [0], [[]], processor)
        result[f"pixels-{number}"] = np.asarray(inputs["pixel_values"])
        result[f"grid-{number}"] = np.asarray(inputs["image_grid_thw"])
    return result


if __name__ == "__main__":
    way, model, pool, out = sys.argv[1], *map(Path, sys.argv[2:5])
    np.savez(
        out, **(by_transformers(model, pool) if way == "transformers" else by_llamafactory(pool, Path(sys.argv[5])))
    )
