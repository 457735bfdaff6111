"""Discriminators from folders: the authors' published layout in miniature, and a stage that starts from one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from integrations.alignment.data.prompts import Encoder
from integrations.alignment.data.segments import Splitter
from integrations.alignment.discriminators import creation, published, storage
from integrations.alignment.discriminators.discriminator import Discriminator
from integrations.alignment.discriminators.upcycle import upcycle
from integrations.alignment.forward.model import banned_tokens, load_policy
from integrations.alignment.job import Job
from integrations.alignment.training.session import open_session
from integrations.alignment.training.world import World as Alone
from integrations.common.files import hash_file, hash_folder
from integrations.errors import BadInput
from tests.torch.conftest import make_model
from tests.torch.test_discriminator import PAPER, World, build, make_items

HIDDEN = 32
NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
SETTINGS = PAPER | {
    "architecture": "moe",
    "inputs": "multimodal",
    "experts": 4,
    "top_k": 2,
    "noise": 0.0,
    "router_std": 0.1,
    "teacher_tokens": None,
    "held_out": 16,
}


def backbone(checkpoint: Path, inner: int) -> Any:
    """A mixture of experts of that width, with weights that bfloat16 holds."""
    config = Qwen3VLConfig.from_pretrained(checkpoint)
    config.text_config.intermediate_size = inner
    torch.manual_seed(3)
    dense = Qwen3VLForConditionalGeneration(config)
    grown = upcycle(dense, experts=4, top_k=2, noise=0.3, router_std=0.5, seed=0)
    with torch.no_grad():
        for value in grown.parameters():
            value.copy_(value.bfloat16())
    return grown


def write_published(
    folder: Path, checkpoint: Path, grown: Any, *, transposed: bool = True, among_the_weights: bool = True
) -> torch.Tensor:
    """The folder as the authors' code and transformers 4.57 write it; returns the head's weight."""
    folder.mkdir()
    head = torch.linspace(-0.5, 0.5, HIDDEN)[None].bfloat16()
    weights = {}
    for name, value in grown.state_dict().items():
        if name == "lm_head.weight":
            continue
        turned = transposed and ".mlp.experts." in name
        weights[name] = (value.transpose(1, 2) if turned else value).contiguous().bfloat16()
    if among_the_weights:
        weights["v_head.1.weight"] = head
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = grown.config.to_dict()
    text = config["text_config"]
    text["num_experts"] = text.pop("num_local_experts")
    rope = text.pop("rope_parameters")
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = rope
    config |= {"transformers_version": "4.57.0", "architectures": ["Qwen3VLMoeForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config))
    for name in NAMES:
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, folder)
    return head


def session(checkpoint: Path, policy: Any, **change: Any) -> Any:
    """What `creation.build` reads of a session."""
    settings = SimpleNamespace(**(SETTINGS | change.pop("settings", {})))
    job = {"init_from": None, "upcycle_from": checkpoint, "policy": checkpoint, "base_model": checkpoint}
    job |= {"device": "cpu", "seed": 0, "settings": settings}
    tokenizer = creation.AutoTokenizer.from_pretrained(checkpoint)
    banned = banned_tokens(tokenizer, policy.lm_head.out_features)
    return SimpleNamespace(job=SimpleNamespace(**(job | change)), policy=policy, banned_V=banned)


@pytest.mark.parametrize("transposed", [True, False], ids=["before 5", "since 5"])
@pytest.mark.parametrize("inner", [80, HIDDEN, HIDDEN // 2], ids=["oblong", "square down", "square gate and up"])
def test_the_published_layout_scores_as_what_was_written(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path, inner: int, transposed: bool
) -> None:
    grown = backbone(checkpoint, inner)
    head = write_published(tmp_path / "published", checkpoint, grown, transposed=transposed)
    made = creation.build(session(checkpoint, policy, init_from=tmp_path / "published"))
    loaded = dict(made.backbone.named_parameters())
    for name, value in grown.named_parameters():
        assert torch.equal(loaded[name], value), name
    assert loaded["model.language_model.layers.0.mlp.gate.weight"].dtype == torch.float32
    assert made.heads is not None
    assert torch.equal(made.heads["shared"].weight, head.float())
    described = made.description
    assert (described.positions, described.heads, described.terminator) == ("text", "shared", "turn-end")
    assert (described.reasoning, described.routing, described.score) == ("alone", "free", "head")
    assert described.reference == hash_folder(checkpoint)
    heads = nn.ModuleDict({"shared": nn.Linear(HIDDEN, 1, bias=False)})
    heads.load_state_dict({"shared.weight": head.float()})
    expected = Discriminator(grown, described, made.banned_V, heads=heads)
    items = make_items(encoder, world, PAPER)
    assert torch.equal(made.score(*items), expected.score(*items))


def test_a_plain_forward_of_the_published_layout_gives_the_same_score(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path
) -> None:
    """Against transformers' own model, each segment after the prompt for itself: text positions, free routing, the
    head at the newline that closes the turn."""
    grown = backbone(checkpoint, 80)
    head = write_published(tmp_path / "published", checkpoint, grown)
    made = creation.build(session(checkpoint, policy, init_from=tmp_path / "published"))
    prompts, which, segments = make_items(encoder, world, PAPER)
    scores_2R = made.score(prompts, which, segments)
    for r, (index, item) in enumerate(zip(which, segments, strict=True)):
        prompt = prompts[index]
        for role, part in enumerate((item.ids[: item.perception], item.ids[item.perception :])):
            ids = torch.tensor([[*prompt.ids, *part]])
            images = {"pixel_values": prompt.patches, "image_grid_thw": prompt.grids} if len(prompt.grids) else {}
            hidden = grown.model(
                input_ids=ids,
                position_ids=torch.arange(ids.shape[1]).expand(3, 1, -1),
                mm_token_type_ids=(ids == grown.config.image_token_id).long(),
                **images,
            ).last_hidden_state
            torch.testing.assert_close(scores_2R[role, r], hidden[0, -1] @ head[0].float(), atol=3e-4, rtol=1e-5)


def test_the_head_is_found_in_either_place_and_never_made_up(checkpoint: Path, tmp_path: Path) -> None:
    grown = backbone(checkpoint, 80)
    inside, bare = tmp_path / "inside", tmp_path / "bare"
    head = write_published(inside, checkpoint, grown)
    write_published(bare, checkpoint, grown, among_the_weights=False)
    assert torch.equal(published.load_head(inside, HIDDEN)["shared"].weight, head.float())
    with pytest.raises(BadInput, match="has no head"):
        published.load_head(bare, HIDDEN)
    torch.save({"1.weight": head}, bare / "value_head.pt")
    assert torch.equal(published.load_head(bare, HIDDEN)["shared"].weight, head.float())
    torch.save({"1.weight": head}, inside / "value_head.pt")
    assert torch.equal(published.load_head(inside, HIDDEN)["shared"].weight, head.float())
    torch.save({"1.weight": head + 1}, inside / "value_head.pt")
    with pytest.raises(BadInput, match="different heads"):
        published.load_head(inside, HIDDEN)
    with pytest.raises(BadInput, match=r"shape is \(1, 32\), not \(1, 64\)"):
        published.load_head(bare, 64)
    torch.save({"1.weight": head, "1.bias": head[0, :1]}, bare / "value_head.pt")
    with pytest.raises(BadInput, match="does not hold one tensor"):
        published.load_head(bare, HIDDEN)


class Runs:
    """Would run a command when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_head_file_cannot_run_code(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    write_published(folder, checkpoint, backbone(checkpoint, 80), among_the_weights=False)
    torch.save(Runs(tmp_path / "made"), folder / "value_head.pt")
    with pytest.raises(BadInput, match="not a file of weights"):
        published.load_head(folder, HIDDEN)
    (folder / "value_head.pt").write_bytes(b"not a file")
    with pytest.raises(BadInput, match="not a file of weights"):
        published.load_head(folder, HIDDEN)
    assert not (tmp_path / "made").exists()


def test_what_does_not_fit_the_stage_is_refused(checkpoint: Path, policy: Any, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    write_published(folder, checkpoint, backbone(checkpoint, 80))

    def refused(**change: Any) -> BadInput:
        with pytest.raises(BadInput) as caught:
            creation.build(session(checkpoint, policy, **change))
        return caught.value

    wrong = refused(init_from=folder, settings={"positions": "multimodal", "heads": "per_role"})
    assert "has `positions: text`, the stage asks for `multimodal`" in wrong.problem
    assert wrong.fix == "set `positions: text`, `heads: shared`"
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["zz"] = len(vocabulary["model"]["vocab"]) + 20
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert "`upcycle_from`:" in refused(upcycle_from=other).problem
    shutil.copy(other / "tokenizer.json", folder)
    assert "`init_from`:" in refused(init_from=folder).problem
    assert "another vocabulary" in refused(init_from=folder).problem


def test_experts_of_no_known_shape_and_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    write_published(folder, checkpoint, backbone(checkpoint, 80))
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["moe_intermediate_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="experts' shapes"):
        storage.load_backbone(folder, "moe")
    whole = tmp_path / "whole"
    grown = backbone(checkpoint, 80)
    write_published(whole, checkpoint, grown)
    with pytest.raises(BadInput, match=r"unexpected weights: v_head\.1\.weight"):
        storage.load_backbone(whole, "moe")
    with pytest.raises(BadInput, match="model_type is 'qwen3_vl_moe', not 'qwen3_vl'"):
        storage.load_backbone(whole, "dense")
    del grown.model.language_model.layers[1].mlp.gate
    write_published(tmp_path / "less", checkpoint, grown)
    with pytest.raises(BadInput, match=r"missing weights: .*layers\.1\.mlp\.gate\.weight"):
        storage.load_backbone(tmp_path / "less", "moe", [published.HEAD])


@pytest.mark.parametrize("score", ["likelihood_ratio", "head"])
def test_a_stage_starts_from_a_discriminator_of_its_own(
    checkpoint: Path, encoder: Encoder, world: World, tmp_path: Path, score: str
) -> None:
    """The weights are taken over; the reference and what is held out are the new stage's."""
    policy = load_policy(checkpoint)
    words = {"score": score, "tokenizer": hash_file(checkpoint / "tokenizer.json")}
    earlier = build(policy, encoder, **words)
    storage.save(earlier, tmp_path / "earlier")
    for name in NAMES:
        if (checkpoint / name).exists():
            shutil.copy(checkpoint / name, tmp_path / "earlier")
    settings = {name: getattr(earlier.description, name) for name in PAPER} | {"held_out": 20}
    made = creation.build(session(checkpoint, policy, init_from=tmp_path / "earlier", settings=settings))
    items = make_items(encoder, world)
    assert torch.equal(made.score(*items), earlier.score(*items))
    assert made.description.reference == hash_folder(checkpoint)
    assert made.description.held_out == 20


@pytest.mark.parametrize("words", [{}, PAPER | {"teacher_tokens": 9}], ids=["default", "paper"])
def test_a_game_reads_as_its_discriminator_did(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path, words: dict[str, Any]
) -> None:
    """Whatever the game's own settings say: demonstrations and responses are split as in the warm-up."""
    storage.save(build(policy, encoder, **words), tmp_path / "discriminator")
    settings = SimpleNamespace(
        teacher="teacher",
        held_out=4,
        max_prompt_tokens=2048,
        bad_rows="skip",
        precision=SimpleNamespace(compute="fp32", freeze_vision=False, gradient_checkpointing=False, lora=None),
        rollout=SimpleNamespace(engine="transformers", dtype="auto"),
    )
    given = dict.fromkeys(Job.__annotations__, checkpoint) | {"data_dir": world[0], "device": "cpu", "threads": 1}
    given |= {"settings": settings, "checkpoint_dir": tmp_path, "progress_file": tmp_path / "progress.jsonl"}
    job = Job(**(given | {"discriminator": tmp_path / "discriminator", "steps": 1}))
    opened = open_session(job, Alone())
    reading = {name: words[name] for name in ("reasoning", "terminator") if name in words}
    expected = Splitter(encoder.tokenizer, **reading)
    for row in opened.pool.held_out:
        whole, read = expected.split(row["response"]), opened.pool.demonstrations[row["id"]]
        assert read == expected.split(row["response"], words.get("teacher_tokens"))
        assert (read == whole) == ("teacher_tokens" not in words)
        assert opened.splitter.split(row["response"]) == whole, "responses are never cut"


def test_a_larger_model_of_the_family_is_upcycled_for_a_smaller_policy(
    checkpoint: Path, policy: Any, encoder: Encoder, world: World, tmp_path: Path
) -> None:
    make_model(tmp_path / "larger", hidden=48, seed=1)
    made = creation.build(session(checkpoint, policy, upcycle_from=tmp_path / "larger"))
    assert made.backbone.config.text_config.hidden_size == 48
    assert made.score(*make_items(encoder, world, PAPER)).isfinite().all()
