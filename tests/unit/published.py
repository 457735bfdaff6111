"""Generated data sets with the schemas of the published ones, and pictures that differ."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

CAPTION, THINK, ANSWER = "<caption>bars {}</caption>", "<think>{} and one more</think>", "<answer>{}</answer>"
SYSTEM = "You are a helpful scientific assistant."


def chart(number: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A bar chart of its own for every number; all have axes at the same place."""
    random = np.random.default_rng(number)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    width, height = size
    pen.line([(12, 6), (12, height - 12), (width - 6, height - 12)], fill="black", width=2)
    step = (width - 30) // 6
    for bar, share in enumerate(random.random(6)):
        left = 20 + bar * step
        pen.rectangle([left, height - 13 - share * (height - 30), left + step - 6, height - 13], fill=(40, 90, 160))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def response(number: int) -> str:
    return "\n".join([CAPTION.format(number), THINK.format(number), ANSWER.format(number + 1)])


def rl_record(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the alignment set."""
    turns = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"<image>\nWhat follows bar {number}?\n"},
    ]
    return {
        "images": [{"bytes": encoded(chart(number)), "path": None}],
        "data_source": "mm_gad",
        "prompt": turns,
        "teacher_caption": CAPTION.format(number),
        "teacher_cot": f"{THINK.format(number)}\n{ANSWER.format(number + 1)}",
        "teacher_response": response(number),
        "answer": str(number + 1),
        "reward_model": {"ground_truth": str(number + 1), "style": "rule"},
    } | changes


def sft_record(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the distilled SFT set, images inside."""
    turns = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"<image>What follows bar {number}?"},
        {"role": "assistant", "content": response(number)},
    ]
    return {"messages": turns, "images": [{"bytes": encoded(chart(number)), "path": f"{number}.png"}]} | changes


def public_record(number: int, **changes: Any) -> dict[str, Any]:
    """A row of the public SFT set, images in an archive."""
    turns = [
        {"from": "human", "value": f"<image>\nWhat follows bar {number}?"},
        {"from": "gpt", "value": response(number)},
    ]
    return {"conversations": turns, "images": [f"mmr1/{number}.png"]} | changes


def pair_record(number: int, **changes: Any) -> dict[str, Any]:
    """A warm-up pair."""
    cot = f"{THINK.format(number)}\n{ANSWER.format(number + 1)}"
    return {
        "id": f"pair-{number}",
        "image": f"images/{number}.png",
        "question": f"What follows bar {number}?",
        "teacher_caption": CAPTION.format(number),
        "teacher_cot": cot,
        "student_caption": CAPTION.format("some"),
        "student_cot": cot,
    } | changes


def parquet(records: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), stream)
    return stream.getvalue()


def jsonl(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def repositories(rows: int = 6) -> dict[tuple[str, str], dict[str, bytes]]:
    """Files by kind and name of every repository that the 4B recipe takes something from."""
    numbers = range(rows)
    shards = [[*numbers][start::3] for start in range(3)]
    distilled = {f"data/train-{n:05d}.parquet": parquet([sft_record(i) for i in s]) for n, s in enumerate(shards)}
    pictures = {f"mmr1/{i}.png": encoded(chart(100 + i)) for i in numbers}
    model = {
        "config.json": b'{"model_type": "qwen3_vl"}',
        "tokenizer.json": b"{}",
        "model.safetensors": bytes(range(256)) * 64,
        "pytorch_model.bin": b"another copy",
    }
    return {
        ("dataset", "prism-vlm/gemini_distill"): {"README.md": b"# distilled", **distilled},
        ("dataset", "prism-vlm/gemini_public_mmr1"): {
            "part_0.jsonl": jsonl([public_record(i) for i in numbers]),
            "images.tar.gz": archive(pictures),
        },
        ("dataset", "prism-vlm/rl_dataset"): {
            "rl_training_data_5.9k.parquet": parquet([rl_record(i) for i in numbers]),
            "rl_training_data_filtered_2k.parquet": parquet([rl_record(i) for i in [*numbers][::2]]),
            "rl_training_data_10k.parquet": parquet([rl_record(i) for i in numbers]),
            "qwen3_vl_moe_warmup_pairwise_120k.jsonl": jsonl([pair_record(i) for i in numbers]),
            "pairwise_images.tar.gz": archive({f"images/{i}.png": encoded(chart(i)) for i in numbers}),
        },
        ("model", "Qwen/Qwen3-VL-4B-Instruct"): model,
        ("model", "Qwen/Qwen3-VL-2B-Instruct"): model,
    }
