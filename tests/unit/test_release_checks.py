"""Bad folders of every kind are found, by the check that is meant to find them and by no other."""

import base64
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from released import CANARY, CONTEXT, SHARDS, VALUES, check, clean, edit, header, pack, write_weights

from integrations.common.checkpoint import INDEX
from release.checks import CHECKS, CheckContext, Numbers, secrets
from release.checks.headers import parse_header
from release.manifest import Manifest, scan, write

EMBEDDING, NORM, BIAS = VALUES
# Put together here, so that this file holds no token itself.
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
AWS = "AKIA" + "IOSFODNN7ABCDEFG"


def text(name: str, content: str) -> Callable[[Path], object]:
    """Add lines to the card, or write another file."""

    def plant(folder: Path) -> None:
        path = folder / name
        path.write_text((path.read_text() if name == "README.md" else "") + content + "\n")

    return plant


def bytes_of(name: str, content: bytes = b"\x80\x04.") -> Callable[[Path], object]:
    def plant(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return plant


def config(path: str, **fields: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder / path, lambda value: value.update(fields))


def card(before: str, after: str) -> Callable[[Path], object]:
    def plant(folder: Path) -> None:
        content = (folder / "README.md").read_text()
        assert before in content
        (folder / "README.md").write_text(content.replace(before, after, 1))

    return plant


def number(name: str, value: float) -> Callable[[Path], object]:
    """Write one number of a tensor."""

    def plant(folder: Path) -> None:
        changed = VALUES[name].copy()
        changed.flat[-1] = value
        write_weights(folder, VALUES | {name: changed})

    return plant


def in_header(change: Callable[[Any], object], shard: int = 1) -> Callable[[Path], object]:
    return lambda folder: header(folder / SHARDS[shard], change)


def cut(folder: Path) -> None:
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1])


def longer(folder: Path) -> None:
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes() + bytes(8))


def shifted(value: Any, name: str, begin: int, end: int) -> None:
    first, last = value[name]["data_offsets"]
    value[name]["data_offsets"] = [first + begin, last + end]


def hard_link(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    outside.write_text("{}")
    (folder / "added_tokens.json").hardlink_to(outside)


def two_cases(folder: Path) -> None:
    for name in ("scores.png", "Scores.png"):
        (folder / "images" / name).write_bytes(b"png")


def in_tokenizer(word: str) -> Callable[[Path], object]:
    """Make one word of the vocabulary, whose ids stay as they were."""

    def plant(folder: Path) -> None:
        def change(value: Any) -> None:
            vocabulary = value["model"]["vocab"]
            vocabulary[word] = vocabulary.pop("password")

        edit(folder / "tokenizer.json", change)

    return plant


PLANTED: list[tuple[str, str, Callable[[Path], object]]] = [
    ("a pickle", "pickle", bytes_of("pytorch_model.bin")),
    ("a pickle without a model's name", "pickle", bytes_of("value_head.pt")),
    ("an optimizer", "training-state", bytes_of("optimizer.pt")),
    ("a scheduler", "training-state", bytes_of("scheduler.bin")),
    ("a random state", "training-state", bytes_of("rng_state_0.pth")),
    ("a trainer's state", "training-state", bytes_of("trainer_state.json", b"{}")),
    ("arguments of training", "training-state", bytes_of("training_args.bin")),
    ("a shard of a sharded optimizer", "training-state", bytes_of("global_step10/zero_pp_rank_0_optim.pt")),
    ("a program", "code", bytes_of("modeling_model.py", b"import os")),
    ("a hidden file", "hidden-file", bytes_of(".env", b"A=1")),
    ("a file inside a hidden folder", "hidden-file", bytes_of(".cache/x.json", b"{}")),
    ("a file of another name", "unknown-file", bytes_of("notes.md", b"hello")),
    ("a dump of the environment", "unknown-file", bytes_of("env.json", b"{}")),
    ("a link to a file", "symlink", lambda folder: (folder / "merges.txt").symlink_to("/etc/passwd")),
    ("a link to a folder", "symlink", lambda folder: (folder / "data").symlink_to("/etc")),
    ("a hard link to a file outside", "hard-link", hard_link),
    ("a pipe", "special-file", lambda folder: os.mkfifo(folder / "vocab.json")),
    ("names that differ in case", "name-case", two_cases),
    ("a name that does not print", "file-name", bytes_of("images/a\x1b[2Jb.png")),
    ("a name that reads backwards", "file-name", bytes_of("images/a\u202egnp.b.png")),
    ("a name in pieces of letters", "file-name", bytes_of("images/e\u0301.png")),
    ("a name that is no text", "file-name", lambda folder: (folder / os.fsdecode(b"\xff.json")).write_text("{}")),
    ("a long name", "file-name", bytes_of(f"images/{'x' * 250}.png")),
    ("a token in the card", "secret", text("README.md", f"export HF_TOKEN={TOKEN}")),
    ("a token escaped in JSON", "secret", text("provenance/a.json", '{"a": "\\u0068f\\u005f' + TOKEN[3:] + '"}')),
    (
        "a token in JSON in JSON",
        "secret",
        text("provenance/a.json", json.dumps(json.dumps({"a": TOKEN.replace("_", "\\u005f")}))),
    ),
    ("a token cut by an escaped line end", "secret", text("provenance/a.yaml", f'a: "{TOKEN[:9]}\\\n   {TOKEN[9:]}"')),
    ("a token in base64", "secret", text("provenance/a.txt", base64.b64encode(f"token {TOKEN}".encode()).decode())),
    ("a token in wide characters", "secret", bytes_of("provenance/a.txt", TOKEN.encode("utf-16"))),
    ("a token with percent signs", "secret", text("README.md", f"https://x.org/?t=%68%66_{TOKEN[3:]}")),
    ("a token in a word of a tokenizer", "secret", in_tokenizer(TOKEN)),
    ("a token in the metadata of weights", "secret", in_header(lambda value: value["__metadata__"].update(by=TOKEN))),
    ("a token in a picture", "secret", bytes_of("images/a.png", b"\x89PNG\xfftEXtComment\x00" + TOKEN.encode())),
    ("a token as a name in JSON", "secret", text("provenance/a.json", json.dumps({AWS: 1}))),
    ("a key of AWS", "secret", text("README.md", AWS)),
    ("a key of OpenAI", "secret", text("README.md", "sk-" + "proj-Ab1Cd2Ef3Gh4Ij5Kl6Mn")),
    ("a token of GitHub", "secret", text("README.md", "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345")),
    ("a token of Slack", "secret", text("README.md", "xoxb-" + "0123456789-abcdefghij")),
    ("a key of Google", "secret", text("README.md", "AIza" + "SyA0123456789abcdefghijABCDEFGHIJ012")),
    ("a key of Weights & Biases", "secret", text("README.md", "WANDB_API_KEY=" + "0123456789" * 4)),
    ("a private key", "secret", text("provenance/a.txt", "-----BEGIN OPENSSH " + "PRIVATE KEY-----")),
    ("a password in an address", "secret", text("README.md", "https://alice:" + "wonder1@x.org/git")),
    ("a bearer token", "secret", text("README.md", "Authorization: Bearer " + "abcdef0123456789ABCDEF")),
    ("a named password", "secret", text("provenance/a.json", json.dumps({"password": "correct0horse1battery"}))),
    ("a home", "local-path", text("provenance/a.json", json.dumps({"out": "/home/alice/runs"}))),
    ("a home with escaped slashes", "local-path", text("provenance/a.json", '{"out": "\\/home\\/alice\\/runs"}')),
    ("a home on Windows", "local-path", text("provenance/a.json", json.dumps({"out": "C:\\Users\\alice"}))),
    ("a folder of a cluster", "local-path", text("README.md", "Trained on `/scratch/alice/x`.")),
    ("a folder in the chat template", "local-path", text("chat_template.jinja", "{# /srv/alice/work #}{{ messages }}")),
    (
        "a path in a special token",
        "local-path",
        lambda f: edit(f / "tokenizer.json", lambda v: v.update(by="/srv/alice/t")),
    ),
    ("a private address", "private-host", text("README.md", "served at 10.11.12.13")),
    ("a private host", "private-host", text("README.md", "see https://wiki.example.internal/page")),
    ("the host's name", "private-name", text("README.md", "Made on Wonderland.")),
    ("the run's folder", "private-name", text("provenance/a.json", json.dumps({"run": "/srv-7/runs"}))),
    ("an address of a person", "email", text("README.md", "Write to alice@looking-glass.io")),
    ("a header longer than the file", "safetensors", bytes_of(SHARDS[1], b"\xff" * 16)),
    ("an empty weights file", "safetensors", bytes_of(SHARDS[1], b"")),
    ("a header that is not JSON", "safetensors", in_header(lambda value: "{{")),
    ("a header nested without end", "safetensors", in_header(lambda value: "[" * 200_000)),
    ("a header with a tensor twice", "safetensors", in_header(lambda value: '{"a": 1, "a": 2}')),
    ("a tensor of an unknown dtype", "safetensors", in_header(lambda value: value[NORM].update(dtype="F7"))),
    ("a shape that does not fit", "safetensors", in_header(lambda value: value[NORM].update(shape=[5]))),
    ("a shape of huge numbers", "safetensors", in_header(lambda value: value[NORM].update(shape=[2**61] * 16))),
    ("a shape below zero", "safetensors", in_header(lambda value: value[NORM].update(shape=[-1, -4]))),
    ("a hole", "safetensors", in_header(lambda value: shifted(value, BIAS, 4, 4))),
    ("an overlap", "safetensors", in_header(lambda value: shifted(value, BIAS, -4, -4))),
    ("weights cut short", "safetensors", cut),
    ("bytes behind the weights", "safetensors", longer),
    (
        "a tensor in two shards",
        "tensor-twice",
        lambda folder: (folder / SHARDS[0]).write_bytes(pack({k: VALUES[k] for k in (EMBEDDING, NORM)})),
    ),
    ("a missing shard", "index", lambda folder: (folder / SHARDS[1]).unlink()),
    ("a missing index", "index", lambda folder: (folder / INDEX).unlink()),
    (
        "a shard that the index leaves out",
        "index",
        bytes_of("model-00003-of-00003.safetensors", pack({"x": np.ones(2, np.float32)})),
    ),
    (
        "a wrong total",
        "index",
        lambda folder: edit(folder / INDEX, lambda value: value["metadata"].update(total_size=1)),
    ),
    (
        "a tensor in the wrong shard",
        "index",
        lambda folder: edit(folder / INDEX, lambda value: value["weight_map"].update({NORM: SHARDS[0]})),
    ),
    (
        "an index with a path",
        "index",
        lambda folder: edit(folder / INDEX, lambda value: value["weight_map"].update({NORM: "../x"})),
    ),
    ("an index without a map", "index", text(INDEX, '{"weight_map": []}')),
    (
        "weights of another dtype",
        "dtype",
        lambda folder: (folder / SHARDS[0]).write_bytes(pack({EMBEDDING: VALUES[EMBEDDING].view(np.float64)}, "F64")),
    ),
    (
        "weights of a narrower dtype",
        "dtype",
        lambda folder: (folder / SHARDS[0]).write_bytes(pack({EMBEDDING: np.full(304, 0x3F80, np.uint16)}, "BF16")),
    ),
    ("no declared dtype", "dtype", config("config.json", dtype=None)),
    ("a part of another dtype", "dtype", config("config.json", vision_config={"dtype": "bfloat16"})),
    ("NaN", "not-finite", number(EMBEDDING, np.nan)),
    ("infinity", "not-finite", number(NORM, -np.inf)),
    ("nothing but zeros", "all-zero", lambda folder: write_weights(folder, VALUES | {NORM: -np.zeros(4, np.float32)})),
    ("damaged JSON", "json", text("generation_config.json", '{"a": 1')),
    ("a name twice in JSON", "json", text("generation_config.json", '{"a": 1, "a": 2}')),
    ("NaN in JSON", "json", text("generation_config.json", '{"a": NaN}')),
    ("JSON nested without end", "json", text("generation_config.json", "[" * 200_000)),
    ("an unknown architecture", "architecture", config("config.json", architectures=["EvilForCausalLM"])),
    ("another model type", "architecture", config("config.json", model_type="qwen3_vl_moe")),
    ("code in the configuration", "remote-code", config("config.json", auto_map={"AutoModel": "x--modeling.M"})),
    ("code in the processor", "remote-code", text("preprocessor_config.json", '{"auto_map": {"A": "b.C"}}')),
    ("trust in code, nested", "remote-code", config("tokenizer_config.json", init={"trust_remote_code": True})),
    ("a folder as the model's name", "config-path", config("config.json", _name_or_path="/srv-8/models/x")),
    ("a folder above as the tokenizer's name", "config-path", config("tokenizer_config.json", name_or_path="../model")),
    (
        "an embedding that is too small",
        "vocabulary",
        lambda f: edit(f / "config.json", lambda v: v["text_config"].update(vocab_size=30)),
    ),
    ("an end token that is none", "vocabulary", config("generation_config.json", eos_token_id=[99])),
    ("an image token that is none", "vocabulary", config("config.json", image_token_id="34")),
    (
        "another added token",
        "vocabulary",
        config("tokenizer_config.json", added_tokens_decoder={"3": {"content": "x"}}),
    ),
    ("no configuration", "missing-file", lambda folder: (folder / "config.json").unlink()),
    ("no card", "missing-file", lambda folder: (folder / "README.md").unlink()),
    ("no licence", "licence-file", lambda folder: (folder / "LICENSE").unlink()),
    ("another licence's text", "licence-file", text("LICENSE", "Permission is hereby granted")),
    ("no notice of change", "licence-file", text("NOTICE", "nothing")),
    ("a card without a head", "card", lambda folder: (folder / "README.md").write_text("# A model\n")),
    ("a head that is not YAML", "card", card("license: apache-2.0", "license: [")),
    ("a head that makes an object", "card", card("license: apache-2.0", "license: !!python/object/apply:os.getcwd []")),
    ("a name twice in the head", "card", card("license: apache-2.0", "license: mit\nlicense: apache-2.0")),
    ("a head with a value that is none", "card", card("- en", "- !!timestamp en")),
    ("another licence in the card", "card", card("license: apache-2.0", "license: mit")),
    ("another base in the card", "card", card("base_model: Qwen/Qwen3-VL-4B-Instruct", "base_model: a/b")),
    ("no task in the card", "card", card("pipeline_tag: image-text-to-text\n", "")),
    ("a language that is none", "card", card("- en", "- English")),
    ("a field that nobody filled", "card-gap", text("README.md", "[More Information Needed]")),
    ("a field of the template", "card-gap", text("README.md", "Score: {{ score }}")),
    ("a field of the template in code", "card-gap", text("README.md", "```python\nx = {{ score }}\n```")),
    ("a statement of the template", "card-gap", text("README.md", "{% for x in y %}")),
    ("a note to the author", "card-gap", text("README.md", "TODO: describe")),
    ("an empty cell", "card-gap", text("README.md", "| a | None |")),
    ("a picture that is not there", "card-link", text("README.md", "![x](images/none.png)")),
    ("a link out of the release", "card-link", text("README.md", "[x](../../etc/passwd)")),
    ("a picture in HTML that is not there", "card-link", text("README.md", '<img width="3" src="none.png">')),
    ("results that are none", "eval-results", text(".eval_results/digits.yaml", "value: 1")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return clean(tmp_path / "release")


def test_a_clean_release_has_no_finding(folder: Path) -> None:
    assert check(folder) == []
    write(folder, Manifest(scan(folder).files, CANARY))
    assert check(folder) == []


@pytest.mark.parametrize(("expected", "plant"), [item[1:] for item in PLANTED], ids=[item[0] for item in PLANTED])
def test_a_bad_folder_is_found_by_its_check_alone(folder: Path, expected: str, plant: Callable[[Path], object]) -> None:
    plant(folder)
    findings = check(folder)
    assert {finding.check for finding in findings} == {expected}, findings
    for finding in findings:
        assert finding.problem.isprintable()
        assert finding.path.isprintable()
        assert finding.fix
        assert TOKEN[8:] not in json.dumps(finding.to_json())


def test_whole_numbers_may_stand_among_the_weights(folder: Path) -> None:
    (folder / SHARDS[0]).write_bytes(pack({EMBEDDING: np.zeros(76, np.int64)}, "I64"))
    assert check(folder) == []


def test_every_check_finds_something_here() -> None:
    """Those that need more than a spoiled folder have their own tests below."""
    own = {"table", "file-size", "changed", "base-model", "licence", "weights-fit", "processor", "answer", "loaded"}
    assert {item[1] for item in PLANTED} | own == {check.id for check in CHECKS}
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    "plant",
    [
        text("README.md", "more"),
        text("NOTICE", ""),
        lambda folder: (folder / "vocab.json").write_text("{}"),
        lambda folder: (folder / "chat_template.jinja").unlink(),
    ],
)
def test_what_changed_after_it_was_hashed_is_found(folder: Path, plant: Callable[[Path], object]) -> None:
    assert "changed" in {finding.check for finding in check(folder, plant=plant)}


def test_a_shard_that_is_too_large_is_found_unless_one_tensor_fills_it(folder: Path) -> None:
    context = replace(CONTEXT, shard_bytes=20)
    assert [(finding.check, finding.path) for finding in check(folder, context)] == [("file-size", SHARDS[1])]


@pytest.mark.parametrize(
    ("expected", "changes"),
    [
        ("base-model", {"base_model": None, "base_revision": None}),
        ("base-model", {"base_revision": None}),
        ("base-model", {"base_revision": "main"}),
        ("licence", {"base_licence": None}),
        ("licence", {"base_licence": "cc-by-nc-4.0"}),
        ("licence", {"base_licence": "gemma"}),
        ("loaded", {"probe": None}),
        ("loaded", {"probe": {"problems": {"weights": []}, "canary": {}}}),
        ("weights-fit", {"probe": {"problems": {"weights": ["lacks tensors: a"]}, "canary": {}}}),
        ("processor", {"probe": {"problems": {"processor": ["no \x1b[2J"]}, "canary": {}}}),
        ("answer", {"probe": {"problems": {"canary": ["not finite"]}, "canary": {}}}),
    ],
)
def test_what_the_run_and_the_engine_say_is_held(folder: Path, expected: str, changes: dict[str, Any]) -> None:
    findings = check(folder, replace(CONTEXT, **changes))
    assert {finding.check for finding in findings} == {expected}
    assert all(finding.problem.isprintable() for finding in findings)


def test_a_licence_that_is_none_is_found(folder: Path) -> None:
    card("license: apache-2.0", "license: do-what-you-want")(folder)
    assert {finding.check for finding in check(folder, replace(CONTEXT, licence="do-what-you-want"))} == {"licence"}


def test_a_model_from_random_weights_needs_no_base(folder: Path) -> None:
    card("base_model: Qwen/Qwen3-VL-4B-Instruct\nbase_model_relation: finetune\n", "")(folder)
    (folder / "NOTICE").unlink()
    context = CheckContext(licence="apache-2.0", origin="random", probe=CONTEXT.probe)
    assert check(folder, context) == []


def test_another_answer_than_the_recorded_one_is_found(folder: Path) -> None:
    write(folder, Manifest(scan(folder).files, CANARY))
    for value, expected in ((-3.504, []), (-3.51, ["loaded"]), (float("nan"), ["loaded"])):
        probe = {"problems": {}, "canary": CANARY | {"log_probability": value}}
        assert [finding.check for finding in check(folder, replace(CONTEXT, probe=probe))] == expected


def test_a_dataset_is_held_to_its_own_rules(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Data\n")
    (folder / "LICENSE").write_text("Creative Commons Attribution 4.0 International\n")
    context = CheckContext(licence="cc-by-4.0", repo_type="dataset")

    def table(prompt: str, note: str = "none") -> None:
        rows = [{"images": [{"bytes": b"png", "path": "1.png"}], "task": {"digits": [1, 2]}, "prompt": "1 + 2"}] * 5000
        rows.append(rows[0] | {"prompt": prompt})
        made = pa.Table.from_pylist(rows).replace_schema_metadata({"note": note})
        pq.write_table(made, folder / "data/train.parquet", compression="zstd")

    table("2 + 2")
    assert check(folder, context) == []
    table("2 + 2", note=TOKEN)
    assert [finding.check for finding in check(folder, context)] == ["secret"]
    table(f"{TOKEN} /home/alice/x")
    (folder / "model.safetensors").write_bytes(pack(VALUES))
    assert [finding.check for finding in check(folder, context)] == ["unknown-file", "secret", "local-path"]
    (folder / "model.safetensors").unlink()
    content = (folder / "data/train.parquet").read_bytes()
    for spoiled in (b"", content[:-9], content[:4] + bytes(40) + content[44:]):
        (folder / "data/train.parquet").write_bytes(spoiled)
        assert "table" in {finding.check for finding in check(folder, context)}


def test_a_large_tokenizer_costs_little_and_hides_nothing(folder: Path) -> None:
    """1.2 MB of words like those of a real vocabulary, among them what looks like paths, keys and addresses."""
    rng = random.Random(0)
    letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-/.@:\\"ĠĊéß中文'
    odd = ["/home/user", "://u:p@x", "sk-abc", "AKIA", "secret=", "192.168.", "Bearer", "user@mail.com", "10.0.0.1"]
    words = dict.fromkeys("".join(rng.choices(letters, k=rng.randint(2, 14))) for _ in range(48_000))
    vocabulary = {word: 38 + number for number, word in enumerate([*words, *odd])}

    def grow(value: Any) -> None:
        value["model"]["vocab"] |= vocabulary
        value["model"]["merges"] = [[word[:1], word[1:]] for word in list(vocabulary)[:9000]]

    edit(folder / "tokenizer.json", grow)
    edit(folder / "config.json", lambda value: value["text_config"].update(vocab_size=60_000))
    assert 1.2e6 < (folder / "tokenizer.json").stat().st_size < 2e6
    assert check(folder) == []
    edit(folder / "tokenizer.json", lambda value: value["model"]["vocab"].update({TOKEN: 59_999}))
    assert {finding.check for finding in check(folder)} == {"secret"}


DTYPES = {
    "F64": (np.float64, np.array([1, np.nan, -np.inf])),
    "F32": (np.float32, np.array([1, np.nan, -np.inf])),
    "F16": (np.float16, np.array([1, np.nan, -np.inf])),
    "BF16": (np.uint16, np.array([0x3F80, 0x7FC0, 0xFF80])),
    "F8_E5M2": (np.uint8, np.array([0x3C, 0x7E, 0xFC])),
    "F8_E4M3": (np.uint8, np.array([0x38, 0x7F, 0xFF])),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("piece", [1, 3, 7, 4096])
def test_bad_numbers_are_seen_however_the_bytes_are_cut(dtype: str, piece: int) -> None:
    kind, (good, *bad) = DTYPES[dtype]
    one = np.full(5, good, kind)
    zero = np.zeros(3, kind)
    values = {"good": one, "zero": zero, "empty": zero[:0], "also good": one}
    values |= {f"bad {number}": np.array([good, value], kind) for number, value in enumerate(bad)}
    content = pack(values, dtype)
    numbers = Numbers()
    for begin in range(0, len(content), piece):
        numbers("model.safetensors", memoryview(content)[begin : begin + piece])
    numbers("model.safetensors", memoryview(b""))
    assert numbers.not_finite == {"model.safetensors": ["bad 0", "bad 1"]}
    assert numbers.all_zero == {"model.safetensors": ["zero"]}


def test_the_largest_finite_numbers_are_finite() -> None:
    numbers = Numbers()
    for name, dtype, value in (
        ("a", "F32", np.array([-1, 1], np.float32) * np.finfo(np.float32).max),
        ("b", "BF16", np.array([0x7F7F, 0xFF7F], np.uint16)),
        ("c", "F8_E4M3", np.array([0x7E, 0xFE], np.uint8)),
        ("d", "F8_E5M2", np.array([0x7B, 0xFB], np.uint8)),
        ("e", "I32", np.zeros(4, np.int32)),
    ):
        numbers(f"{name}.safetensors", memoryview(pack({name: value}, dtype)))
        numbers(f"{name}.safetensors", memoryview(b""))
    assert (numbers.not_finite, numbers.all_zero) == ({}, {})


def test_no_header_makes_a_check_fall(folder: Path) -> None:
    """Random bytes and random changes of a true header: a finding or none, never an exception."""
    rng = random.Random(1)
    true = (folder / SHARDS[1]).read_bytes()
    length = int.from_bytes(true[:8], "little")
    for _ in range(2000):
        spoiled = bytearray(true)
        for _ in range(rng.randint(1, 8)):
            spoiled[rng.randrange(8 + length)] = rng.randrange(256)
        parse_header(bytes(spoiled[8 : 8 + length]))
        parse_header(rng.randbytes(rng.randint(0, 60)))
        numbers = Numbers()
        numbers("model.safetensors", memoryview(spoiled))
        numbers("model.safetensors", memoryview(b""))
    for _ in range(60):
        spoiled = bytearray(true)
        spoiled[rng.randrange(8 + length)] = rng.randrange(256)
        (folder / SHARDS[1]).write_bytes(spoiled)
        check(folder)


VALUES_OF_JSON: list[Any] = [
    None,
    True,
    0,
    -1,
    10**400,
    1.5,
    "",
    "\ud800",
    "x" * 1000,
    [],
    [[]],
    {},
    {"a": {}},
    [None],
    {"": 0},
]


def test_no_configuration_makes_a_check_fall(folder: Path) -> None:
    """Every field of every JSON file, with values of every kind in its place."""
    rng = random.Random(2)
    paths = list(folder.rglob("*.json"))
    kept = {path: path.read_text() for path in paths}
    for path in paths:
        for trial in range(40):
            value = json.loads(kept[path])
            if trial < len(VALUES_OF_JSON):
                value = VALUES_OF_JSON[trial]
            else:
                spot = value
                while isinstance(spot, dict) and spot:
                    key = rng.choice(list(spot))
                    if not isinstance(spot[key], dict) or rng.random() < 0.5:
                        spot[key] = rng.choice(VALUES_OF_JSON)
                        break
                    spot = spot[key]
            path.write_text(json.dumps(value))
            for finding in check(folder):
                assert finding.problem.isprintable()
                assert finding.path.isprintable()
        path.write_text(kept[path])


def test_no_card_makes_a_check_fall(folder: Path) -> None:
    rng = random.Random(3)
    pieces = ["---\n", "license: ", "apache-2.0\n", "&a [*a]", "*a", "{", "}", "{{ ", " }}", "![x](", ")", "<img src='"]
    pieces += ["\x00", "\\u", "\\U0010ffff", "\\xff", "%", "://a:b@", "![", "1e999", "!!binary x", "? ", "- ", "```\n"]
    for _ in range(150):
        (folder / "README.md").write_text("---\n" + "".join(rng.choices(pieces, k=rng.randint(1, 40))))
        for finding in check(folder):
            assert finding.problem.isprintable()


def test_long_texts_of_one_kind_cost_little() -> None:
    """Rules that would try every beginning again at every letter take minutes here."""
    looks = (secrets.token_lines, secrets.secret_lines, secrets.path_lines, secrets.host_lines, secrets.mail_lines)
    for word in (
        "a-",
        "a.",
        "://a:",
        "\\",
        "%41",
        "@a",
        "a@",
        "/home",
        "x.y.",
        "eyJ",
        "secret=",
        "fd00:",
        "((",
        " a.b.",
    ):
        count = 50_000 // len(word)
        for spelling in secrets.spellings(word * count):
            for look in looks:
                assert len(list(look(spelling))) <= count


@pytest.mark.parametrize(
    ("base", "ours", "allowed"),
    [
        ("apache-2.0", "apache-2.0", True),
        ("apache-2.0", "mit", False),
        ("mit", "apache-2.0", True),
        ("cc-by-4.0", "cc-by-4.0", True),
        ("cc-by-4.0", "apache-2.0", False),
        ("cc-by-sa-4.0", "cc-by-4.0", False),
        ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", True),
        ("cc-by-nc-4.0", "cc-by-4.0", False),
        ("llama3.2", "llama3.2", True),
        ("llama3.2", "apache-2.0", False),
        ("gemma", "gemma", True),
    ],
)
def test_a_licence_must_be_allowed_by_the_base_models(folder: Path, base: str, ours: str, *, allowed: bool) -> None:
    context = replace(CONTEXT, licence=ours, base_licence=base)
    found = {finding.check for finding in check(folder, context)}
    assert ("licence" not in found) == allowed
