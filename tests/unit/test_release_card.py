import html
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt
from PIL import Image
from release_run import make_release_run, make_stage

from integrations.common.parquet_rows import convert
from integrations.common.rows import read_rows
from integrations.errors import BadInput
from prism_cli.publication.data import pictures
from prism_cli.publication.dataset import gather_dataset, pool_files
from prism_cli.publication.evaluation import Measured
from prism_cli.publication.facts import gather
from prism_cli.publication.stages import stages_to_release
from release import names
from release.card import render as rendering
from release.card import text
from release.card.dataset import render_dataset
from release.facts import Facts
from release.manifest import Entry

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "config.json": Entry(1234, "ab" * 32, "cd" * 20),
    "model.safetensors": Entry(7_421_976, "0d5e" * 16, "12" * 20),
    "README.md": Entry(99, "ff" * 32, "ff" * 20),
}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![p](http://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "| a | b |\n|---|---|\n# Heading",
    "```\n# out of the fence\n```",
    "---\nlicense: mit\n---",
    "{{ 7 * 7 }}{% raw %}{{ facts }}",
    "x: y\nlicense: mit",
    "a\x00b\x1b[31mc\u202ed\u200be",
    "`code` *stars* _lines_ ~tilde~ $$x$$ &lt; \\",
    "</td></tr></table><h1>h</h1>",
]
KINDS = ("full", "baseline", "discriminator", "draft", "hub", "early")


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Facts and texts of one release of each kind."""
    run = make_release_run(tmp_path_factory.mktemp("digits"))
    bare = make_release_run(tmp_path_factory.mktemp("bare"), evaluated=())
    hub = make_release_run(tmp_path_factory.mktemp("hub"), hub=True, items=60)
    chosen = stages_to_release(run, None, "all")
    found = names.family("prism-vlm/digits", [one.member for one in chosen])
    family = {one.stage: found[one.member] for one in chosen}
    measured = Measured(run)

    def of(stage):
        return gather(run, stage, family[stage], family, "v1.0", measured=measured)

    facts = {
        "full": of("prism/rlvr"),
        "baseline": of("baseline/rlvr"),
        "discriminator": of("prism/discriminator"),
        "draft": gather(bare, "prism/rlvr", "prism-vlm/bare", {}, "v0.1", draft=True),
        "hub": gather(hub, "prism/rlvr", "prism-vlm/Qwen3-VL-4B-SFT-PRISM-GRPO", {}, "v1.0"),
        "early": of("shared/sft"),
    }
    return {kind: (one, rendering.render(one, FILES, pictures(run))) for kind, one in facts.items()}


def prose_of(card):
    """A card's body as a reader sees it, without code blocks, addresses and hashes."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    body = re.sub(r"^(```+).*?^\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    body = re.sub(r"\]\([^)]*\)", "]", html.unescape(body))
    return re.sub(r"`[0-9a-f]{12}`|`[0-9a-f]{64}`", "", body).replace("\N{MINUS SIGN}", "-")


def numbers_in(value):
    """Every number of a JSON value, those inside its strings included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers_in(key)
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, str):
        yield from (float(found) for found in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", value.replace(",", "")))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


NUMBER = re.compile(r"(?<![\w.,/-])[+-]?\d[\d,]*(?:\.\d+)?(?:e-\d+)?(?![\w]*[A-Za-z_/])")
CONSTANTS = {"95", "0.001", "1", "2604.28123", "0"}
"""The confidence of every interval, the smallest p that is spelled out, T=1, the paper, and nothing at all."""


def traceable(token, known):
    """Whether a number of the facts, at the token's own precision, is the token: itself, in percent, minutes or GiB."""
    digits = token.replace(",", "").lstrip("+")
    decimals = len(digits.partition("e")[0].partition(".")[2])
    if "e" in digits:
        return float(digits) in known
    scales = (1, 100, 1 / 60, 1 / 3600, 1 / 2**30)
    return any(f"{value * scale:.{decimals}f}" in (digits, f"-{digits}") for value in known for scale in scales) or any(
        f"{-value * scale:.{decimals}f}" == digits for value in known for scale in scales
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_of_a_card_stands_in_its_facts(releases, kind):
    facts, files = releases[kind]
    known = set(numbers_in(json.loads(files["provenance/facts.json"])))
    known |= {entry.size for path, entry in FILES.items()}
    known |= {sum(s.seconds for s in facts.chain), sum(s.generated_tokens for s in facts.chain)}
    found = NUMBER.findall(prose_of(files["README.md"]))
    assert len(found) > 40
    assert [token for token in found if token not in CONSTANTS and not traceable(token, known)] == []


def test_a_number_that_is_not_in_the_facts_is_found():
    assert traceable("76.4", {0.764})
    assert traceable("+5.7", {0.0571})
    assert traceable("-1.5", {-0.0149})
    assert traceable("1,234", {1234.0})
    assert not traceable("76.5", {0.764})
    assert not traceable("1,235", {1234.0})


def table_of(card, heading):
    """Rows of the first table below a heading, as lists of cells."""
    section = card.split(f"\n### {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()
    return [[html.unescape(cell.strip()) for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(("heading", "protocol"), [("digits, T=1", "sample"), ("digits, greedy", "greedy")])
def test_the_results_are_those_of_the_comparison(releases, heading, protocol):
    facts, files = releases["full"]
    comparison = next(c for c in json.loads(files["provenance/comparison.json"]) if c["protocol"] == protocol)
    rows = {row["label"]: row for row in comparison["models"]}
    ours, theirs = rows["prism/rlvr"], rows["baseline/rlvr"]
    table = table_of(files["README.md"], heading)
    assert table[0][1:5] == ["n", "SFT → GRPO (baseline)", "SFT → PRISM → GRPO", "Difference"]
    first = table[2]
    score, other = ours["scores"]["digits"], theirs["scores"]["digits"]
    difference = ours["differences"]["digits"]["correct"]
    assert first[:2] == ["answers", str(score["correct"]["n"])]
    assert first[2:4] == [f"{100 * other['correct']['value']:.1f}", f"{100 * score['correct']['value']:.1f}"]
    assert first[4].strip("*") == f"{100 * difference['value']:+.1f}".replace("-", "−")
    assert [float(bound) for bound in re.findall(r"[+−]?\d+\.\d", first[5].replace("−", "-"))] == pytest.approx(
        [100 * bound for bound in difference["ci"]], abs=0.051
    )
    assert first[4].startswith("**") == (difference["ci"][0] > 0 or difference["ci"][1] < 0)
    assert first[7].split() == [f"{100 * other['unparseable']:.1f}", "/", f"{100 * score['unparseable']:.1f}"]
    assert facts.own.name == "prism/rlvr"


def changed(facts, edit):
    """The facts with their JSON edited."""
    value = json.loads(facts.to_json())
    edit(value)
    return Facts.model_validate(value)


def test_the_card_follows_its_facts(releases):
    facts, files = releases["full"]

    def edit(value):
        for comparison in value["evaluation"]["comparisons"]:
            for row in comparison["models"]:
                if row["label"] == "prism/rlvr":
                    difference = row["differences"]["digits"]["correct"]
                    difference |= {"value": -0.1234, "ci": [-0.1555, -0.0333], "p": 0.0123, "p_holm": 0.0123}

    card = rendering.card(changed(facts, edit), FILES)
    assert "**−12.3** points against SFT → GRPO (baseline) (95% interval [−15.6,\N{NO-BREAK SPACE}−3.3])" in card
    assert "−12.3" not in files["README.md"]


@pytest.mark.parametrize(
    ("value", "ci", "p", "said"),
    [
        (0.05, [0.02, 0.08], 0.001, "**+5.0** points against"),
        (0.05, [-0.01, 0.11], 0.1, "not shown to differ from SFT → GRPO (baseline): +5.0 points"),
        (0.05, [0.001, 0.11], 0.06, "not shown to differ from"),
        (-0.05, [-0.08, -0.02], 0.001, "**−5.0** points against"),
    ],
)
def test_the_summary_claims_no_more_than_interval_and_test_show(releases, value, ci, p, said):
    def edit(facts):
        for comparison in facts["evaluation"]["comparisons"]:
            for row in comparison["models"]:
                if row["label"] == "prism/rlvr":
                    row["differences"]["digits"]["correct"] |= {"value": value, "ci": ci, "p": p}

    card = rendering.card(changed(releases["full"][0], edit), FILES)
    assert said in card.split("## ")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_renders_to_the_same_bytes(releases, kind, tmp_path, monkeypatch):
    import matplotlib as mpl

    _, files = releases[kind]
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    again = rendering.render(Facts.model_validate_json(files["provenance/facts.json"]), FILES, pictures_of(files))
    assert again == files


def pictures_of(files):
    return {path: content for path, content in files.items() if path.startswith("images/")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_is_taken_by_the_client_library(releases, kind):
    facts, files = releases[kind]
    data = ModelCard(files["README.md"], ignore_metadata_errors=False).data
    assert data.license == "apache-2.0"
    assert "arxiv:2604.28123" in data.tags
    assert ("draft" in data.tags) == facts.draft
    if kind in ("full", "baseline", "early", "hub"):
        own = [
            row["scores"][benchmark["name"]]["correct"]["value"]
            for comparison in json.loads(files["provenance/comparison.json"])
            for row in comparison["models"]
            for benchmark in comparison["benchmarks"]
            if row["label"] == facts.stage
        ]
        told = [one.metric_value for one in data.eval_results if one.metric_name.startswith("answers")]
        assert sorted(told) == sorted(round(100 * value, 1) for value in own)


def test_a_checkpoint_names_its_parent(releases):
    def head(kind):
        return ModelCard(releases[kind][1]["README.md"]).data.to_dict()

    assert head("full")["base_model"] == "prism-vlm/digits-SFT-PRISM"
    assert head("baseline")["base_model"] == "prism-vlm/digits-SFT"
    assert head("hub")["base_model"] == "Qwen/Qwen3-VL-4B-Instruct"
    assert head("hub")["base_model_relation"] == "finetune"
    assert "base_model" not in head("early")
    assert head("discriminator")["library_name"] == "prism-suite"


def test_benchmarks_on_the_hub_get_files_of_their_own(releases):
    facts, files = releases["hub"]
    assert not [path for path in releases["full"][1] if path.startswith(".eval_results/")]
    found = {path: yaml.safe_load(content) for path, content in files.items() if path.startswith(".eval_results/")}
    assert len(found) == 3
    (entry,) = parse_eval_result_entries(found[".eval_results/prism_mathvista_testmini-paper.yaml"])
    assert entry.dataset_id == "AI4Math/MathVista"
    row = next(row for row in facts.evaluation.comparisons[0]["models"] if row["label"] == "prism/rlvr")
    assert entry.value == round(100 * row["scores"]["mathvista"]["correct"]["value"], 1)
    assert "n = 60" in entry.notes
    assert "95% interval" in entry.notes


def test_quoted_numbers_stand_by_themselves(releases):
    facts, files = releases["hub"]
    card = files["README.md"]
    before, quoted, after = re.split(r"(### Quoted from the paper\n.*?(?=\n### ))", card, flags=re.DOTALL)
    assert "**not** measured here" in quoted
    assert "| SFT-&#62;PRISM-&#62;GRPO | 77.9 | 68.6 | 45.4 |" in quoted
    own = {f"{100 * value:.1f}" for value in numbers_in(facts.evaluation.model_dump())}
    published = {str(value) for row in facts.paper["rows"] for value in row[1:]}
    assert [n for n in NUMBER.findall(prose_of(before + after)) if n in published - own] == []
    assert "Quoted" not in releases["full"][1]["README.md"]


def test_a_draft_says_so(releases):
    card = releases["draft"][1]["README.md"]
    assert "> **Draft.** It was not evaluated" in card
    assert "not evaluated" in card.split("## Results")[1]
    assert "images/scores.png" not in card
    assert "Draft" not in releases["full"][1]["README.md"]
    facts = changed(releases["draft"][0], lambda value: value.update(draft=False))
    with pytest.raises(BadInput, match="not evaluated"):
        rendering.render(facts, FILES, pictures_of(releases["full"][1]))


def test_a_baseline_says_what_is_compared_with_it(releases):
    summary = releases["baseline"][1]["README.md"].split("\n# ", 1)[1].split("\n## ", 1)[0]
    assert "is the baseline that SFT → PRISM → GRPO is compared with" in summary


def test_a_discriminator_shows_its_own_measures(releases):
    card = releases["discriminator"][1]["README.md"]
    assert "| `held_out_pair_accuracy_perception` | 61.3% [48.8, 72.0] |" in card
    assert "init_from=models/digits-SFT-discriminator" in card
    assert "from transformers" not in card


@pytest.mark.parametrize("kind", KINDS)
def test_every_link_leads_somewhere(releases, kind):
    _, files = releases[kind]
    targets = re.findall(r"\]\(([^)]+)\)", files["README.md"])
    local = {target for target in targets if not target.startswith(("http", "#"))}
    assert local <= set(files)
    assert "LICENSE" in local
    for target in targets:
        if target.startswith("#"):
            assert f"\n## {target[1:].capitalize()}\n" in files["README.md"]


def test_only_the_models_own_files_are_listed(releases):
    listed = releases["full"][1]["README.md"].split("## Files")[1].split("## ")[0]
    assert f"| `model.safetensors` | 7,421,976 | `{'0d5e' * 16}` |" in listed
    assert "README.md" not in listed


@pytest.mark.parametrize("kind", ["full", "hub", "baseline"])
def test_code_of_the_quick_start_compiles(releases, kind):
    facts, files = releases[kind]
    blocks = re.findall(r"```python\n(.*?)\n```", files["README.md"], re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")
        assert f'"{facts.repo}", "{facts.tag}"' in block


def test_the_licence_is_the_projects_own(releases):
    assert releases["full"][1]["LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "10.24432/C50P49" in releases["full"][1]["NOTICE"]
    assert "Qwen/Qwen3-VL-4B-Instruct at revision 0123456789abcdef" in releases["hub"][1]["NOTICE"]


def test_the_drawing_is_a_picture_of_some_size(releases):
    for kind in ("full", "baseline", "hub", "early"):
        image = Image.open(io.BytesIO(releases[kind][1]["images/scores.png"]))
        assert image.width == 1500
        assert image.height > 300
        assert len(image.convert("L").getcolors(256)) > 20
    assert "images/scores.png" not in releases["draft"][1]


@pytest.mark.parametrize("words", ["More Information Needed", "TODO", "nan"])
def test_an_unfilled_field_is_an_error(releases, words):
    facts = changed(releases["full"][0], lambda value: value["data"].update(description=f"We {words} here"))
    with pytest.raises(BadInput, match="where a fact belongs"):
        rendering.card(facts, FILES)


def test_a_missing_picture_is_an_error(releases):
    with pytest.raises(BadInput, match=r"images/example\.png"):
        rendering.render(releases["full"][0], FILES, {})


def with_hostile_strings(facts, hostile):
    """The facts with `hostile` wherever a run's own words get in."""

    def edit(value):
        value["run"] = value["title"] = hostile
        value["recipe"] |= {"name": hostile, "profile": hostile, "changes": [hostile]}
        value["recipe"]["resolved"] |= {"name": hostile, "description": hostile}
        value["data"] |= {"description": hostile, "notes": [hostile], "pools": {hostile: 3}, "held_out": [hostile]}
        value["limitations"] = [hostile]
        value["changelog"][0]["what"] = hostile
        value["machine"] |= {"system": hostile, "processor": hostile, "python": hostile, "gpus": [hostile]}
        value["code"]["version"] = hostile
        value["example"] |= {"question": hostile, "reference": hostile, "response": hostile, "system": hostile}
        for stage in value["chain"]:
            stage |= {"title": hostile, "settings": {hostile: hostile}, "notes": [hostile]}
            for parent in stage["parents"]:
                parent["stage"] = hostile
        evaluation = value["evaluation"]
        evaluation["titles"] = dict.fromkeys(evaluation["titles"], hostile)
        for setup in evaluation["setups"]:
            setup |= {"harness": hostile, "server": hostile, "prompt": hostile, "judge": hostile}
        for comparison in evaluation["comparisons"]:
            comparison["suite"] = hostile
            comparison["benchmarks"][0]["title"] = hostile
        for member in value["family"]:
            member |= {"title": hostile, "line": hostile}
        for engine in value["engines"]:
            engine |= {"name": hostile, "versions": {hostile: "1.0"}}

    return changed(facts, edit)


def skeleton(card):
    """What a card is made of once rendered: kinds of blocks, tables' shapes, links, pictures and raw HTML."""
    body = re.sub(r"\A---\n.*?\n---\n", "", card, flags=re.DOTALL)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or []]
    kinds = [token.type for token in tokens if token.type not in ("inline",) and not token.type.startswith("paragraph")]
    targets = [str(t.attrs.get("href") or t.attrs.get("src")) for t in inline if t.type in ("link_open", "image")]
    raw = [token.content for token in [*tokens, *inline] if token.type.startswith("html")]
    return kinds, targets, raw


@pytest.fixture(scope="module")
def harmless(releases):
    """The card whose strings are all one harmless word, as its skeleton and its front matter."""
    facts, files = releases["full"]
    card = rendering.render(with_hostile_strings(facts, "harmless"), FILES, pictures_of(files))["README.md"]
    return skeleton(card), front_matter(card)


def front_matter(card):
    """A card's metadata but for names of benchmarks."""
    return {name: value for name, value in ModelCard(card).data.to_dict().items() if name != "model-index"}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_strings_stay_strings(releases, harmless, hostile):
    facts, files = releases["full"]
    evil = with_hostile_strings(facts, hostile)
    found = rendering.render(evil, FILES, pictures_of(files))
    assert (skeleton(found["README.md"]), front_matter(found["README.md"])) == harmless
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u200b\u202e]", found["README.md"] + found["NOTICE"])
    assert yaml.safe_load(found["provenance/recipe.yaml"])["name"] == hostile
    assert json.loads(found["provenance/facts.json"])["recipe"]["name"] == hostile
    for block in re.findall(r"```python\n(.*?)\n```", found["README.md"], re.DOTALL):
        compile(block, "card", "exec")


def test_text_reads_as_it_was_written():
    for value in HOSTILE:
        shown = MarkdownIt("commonmark").render(str(text.prose(value)))
        assert html.unescape(re.sub(r"</?p>|\n$", "", shown)) == text.plain(value)


def test_numbers_are_written_for_people():
    assert text.points(-0.0149) == "−1.5"
    assert text.points(0.0571) == "+5.7"
    assert text.points(-0.0001) == "0.0"
    assert text.p_value(0.0004) == "&lt;\N{NO-BREAK SPACE}0.001"
    assert text.p_value(None) == "–"
    assert (text.duration(42), text.duration(600), text.duration(7200)) == ("42 s", "10.0 min", "2.0 h")
    assert text.number(4e-05) == "4e-05"
    assert text.percent(1.0) == "100.0"


def test_words_of_a_template_keep_their_blanks(releases):
    card = releases["full"][1]["README.md"]
    assert "`batch_size=16`, `learning_rate=0.0015`, `schedule=cosine`" in card
    assert "SFT → discriminator, SFT → PRISM |" in card


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Facts of a run's data, its pools as files, and the texts beside them."""
    run = make_release_run(tmp_path_factory.mktemp("data"), evaluated=())
    make_stage(run, "data", 1, kind="data")
    facts = gather_dataset(run, "prism-vlm/digits-data", "v1.0", {"prism/rlvr": "prism-vlm/digits-SFT-PRISM-GRPO"})
    pools = pool_files(run)
    files = {path: Entry(len(content), "ab" * 32, "cd" * 20) for path, content in pools.items()}
    return run, facts, pools, render_dataset(facts, files)


def test_a_data_set_has_a_configuration_for_each_pool(dataset):
    _, facts, pools, files = dataset
    data = DatasetCard(files["README.md"], ignore_metadata_errors=False).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert {one["config_name"]: one["data_files"] for one in data["configs"]} == {
        "sft": [{"split": "train", "path": "data/sft.parquet"}],
        "teacher": [{"split": "train", "path": "data/teacher.parquet"}],
        "test": [{"split": "test", "path": "data/test.parquet"}],
    }
    assert {one["data_files"][0]["path"] for one in data["configs"]} == set(pools)
    assert facts.data.repo == facts.repo


def test_a_data_sets_card_says_how_many_and_what_is_held_out(dataset):
    _, facts, pools, files = dataset
    card = files["README.md"]
    assert "| `test` | test | 8 | 8 | 0 | `test` 8 | **never** |" in card
    assert "| `sft` | train | 4 | 4 | 4 | `sft` 4 | yes |" in card
    assert "10.24432/C50P49" in card
    known = set(numbers_in(json.loads(files["provenance/facts.json"])))
    known |= {float(len(content)) for content in pools.values()}
    found = NUMBER.findall(prose_of(card))
    assert [token for token in found if token not in CONSTANTS and not traceable(token, known)] == []
    assert facts.pools[-1].held_out


def test_a_released_pool_is_read_as_a_pool_again(dataset, tmp_path):
    run, _, pools, _ = dataset
    (tmp_path / "sft.parquet").write_bytes(pools["data/sft.parquet"])
    assert convert(tmp_path / "sft.parquet", tmp_path / "pools", "sft") == {"rows": 4, "demonstrations": 4}
    before = list(read_rows(run.root / "data" / "pools" / "sft.jsonl"))
    after = list(read_rows(tmp_path / "pools" / "sft.jsonl"))
    for name in ("id", "prompt", "response", "answer", "system", "source"):
        assert [row[name] for row in after] == [row[name] for row in before]
    pictures = [(run.root / "data" / "pools" / row["images"][0]).read_bytes() for row in before]
    assert [(tmp_path / "pools" / row["images"][0]).read_bytes() for row in after] == pictures


def test_pools_are_the_same_bytes_again(dataset):
    run, _, pools, _ = dataset
    assert pool_files(run) == pools


def test_data_of_ones_own_are_not_released(tmp_path):
    run = make_release_run(tmp_path, hub=True, evaluated=())
    make_stage(run, "data", 1, kind="data")
    with pytest.raises(BadInput, match="licence is not known"):
        gather_dataset(run, "prism-vlm/data", "v1.0")


def test_no_benchmark_stands_for_others(releases):
    card = releases["hub"][1]["README.md"]
    assert "evaluated on part of a suite, so there is no mean" in card.split("## ")[0]
    table = table_of(card, "All checkpoints: multimodal-reasoning, the paper's sampling")
    assert table[0] == ["Checkpoint", "MathVista", "MathVerse", "MathVision"]
    assert all(re.fullmatch(r"\d+\.\d\s\[\d+\.\d,\s\d+\.\d\]", cell) for line in table[2:] for cell in line[1:])


def test_the_mean_of_a_whole_suite_is_the_headline(releases):
    def edit(value):
        for row in value["evaluation"]["comparisons"][0]["models"]:
            row["macro"] = {"correct": row["scores"]["mathvista"]["correct"] | {"value": 0.6543}}
            difference = row["differences"].get("mathvista")
            if difference:
                row["macro_difference"] = {"correct": difference["correct"] | {"value": 0.0321, "p_holm": None}}

    card = rendering.card(changed(releases["hub"][0], edit), FILES)
    summary = card.split("\n# ", 1)[1].split("## ")[0]
    assert "the mean over 3 benchmarks" in summary
    assert "**65.4%** right answers" in summary
    assert "+3.2" in summary
    assert table_of(card, "multimodal-reasoning, the paper's sampling")[-1][0] == "mean"
