"""The tiny Qwen3-VL that a digits run starts from: Qwen's layout, one visual token a digit, repeatable bytes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmarks.digits.build_model import ADDED, SPECIAL, build

MODEL = {
    "seed": 0,
    "vocab_size": 448,
    "hidden_size": 64,
    "intermediate_size": 96,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 32,
    "vision_hidden_size": 32,
    "vision_intermediate_size": 48,
    "vision_layers": 2,
    "vision_heads": 2,
    "initializer_range": 0.05,
    "max_digits": 9,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    response = "<caption>7 9 3</caption>\n<think>7+9=16, 16+3=19 (B)</think>\n<answer>B</answer>"
    row = {"id": "x", "images": [], "prompt": "What is the sum of the digits?", "answer": "B", "response": response}
    for pool in ("base", "sft"):
        (folder / f"{pool}.jsonl").write_text(f"{json.dumps(row)}\n" * 20)
    return folder


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-qwen") / "model"
    build(SimpleNamespace(**MODEL), data, out)
    return out


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


def test_the_same_settings_and_data_give_the_same_bytes(folder: Path, data: Path, tmp_path: Path) -> None:
    build(SimpleNamespace(**MODEL), data, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_another_seed_gives_other_weights_and_the_same_everything_else(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    build(SimpleNamespace(**{**MODEL, "seed": 1}), data, tmp_path / "other")
    different = {
        path.name for path in folder.iterdir() if path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()
    }
    assert different == {"model.safetensors"}


def test_added_tokens_are_qwens(processor: Any, folder: Path) -> None:
    tokenizer = processor.tokenizer
    for token in (*SPECIAL, *ADDED):
        assert len(tokenizer(token).input_ids) == 1
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == ("<|im_end|>", "<|endoftext|>", None)
    assert tokenizer.decode(tokenizer("<think>7</think><|im_end|>").input_ids, skip_special_tokens=True) == (
        "<think>7</think>"
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["image_token_id"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert config["text_config"]["eos_token_id"] == tokenizer.eos_token_id
    assert len(tokenizer) <= config["text_config"]["vocab_size"] == MODEL["vocab_size"]


@pytest.mark.parametrize("text", ["1234", "7+9=16", "größer 漢字 🙂", "  two  spaces\n\n", "A\tB"])
def test_text_survives_the_tokenizer_and_digits_stand_alone(processor: Any, text: str) -> None:
    ids = processor.tokenizer(text).input_ids
    assert processor.tokenizer.decode(ids) == text
    pieces = processor.tokenizer.convert_ids_to_tokens(ids)
    assert all(len(piece) == 1 for piece in pieces if any(letter.isdigit() for letter in piece))


def test_the_chat_layout_is_qwens_without_thinking(processor: Any) -> None:
    turns = [
        {"role": "system", "content": "Be exact."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Sum?"}]},
        {"role": "assistant", "content": "<think>7</think>"},
        {"role": "user", "content": "Again?"},
    ]
    assert processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nBe exact.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Sum?<|im_end|>\n"
        "<|im_start|>assistant\n<think>7</think><|im_end|>\n"
        "<|im_start|>user\nAgain?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert processor.tokenizer.chat_template == processor.chat_template


@pytest.mark.parametrize("digits", [1, 2, 5, 9])
def test_one_digit_is_one_visual_token(processor: Any, digits: int) -> None:
    batch = processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>"],
        images=[Image.new("RGB", (32 * digits, 32))],
        return_tensors="pt",
    )
    assert batch.image_grid_thw.tolist() == [[1, 2, 2 * digits]]
    assert (batch.input_ids == processor.image_token_id).sum() == digits


def test_weights_are_fp32_of_the_asked_spread_and_answer_to_the_picture(folder: Path, processor: Any) -> None:
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    spread = model.model.language_model.layers[0].mlp.up_proj.weight.std().item()
    assert spread == pytest.approx(MODEL["initializer_range"], rel=0.05)
    prompt = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Sum?<|im_end|>\n<|im_start|>assistant\n"
    logits = []
    for shade in ("black", "white"):
        batch = processor(text=[prompt], images=[Image.new("RGB", (64, 32), shade)], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**batch).logits)
    assert logits[0].shape[-1] == MODEL["vocab_size"]
    assert logits[0].isfinite().all()
    assert not torch.equal(logits[0][:, -1], logits[1][:, -1])


def test_a_folder_that_exists_is_left_alone(folder: Path, data: Path) -> None:
    with pytest.raises(FileExistsError, match="exists already"):
        build(SimpleNamespace(**MODEL), data, folder)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"base\.jsonl"):
        build(SimpleNamespace(**MODEL), tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
