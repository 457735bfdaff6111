"""A data set's card: README.md with the front matter that the Hub reads, from what was counted of its pools.

    text = card("my-pools", {"sft": statistics}, "apache-2.0")

The statistics are those of `prism data stats --json`. Fields of the front matter: the Hub's "Dataset Cards" page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

SIZES = (
    *((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")),
    *((10**7, "1M<n<10M"), (10**8, "10M<n<100M")),
)
"""Rows below each bound, as the Hub's `size_categories` has them."""
FIELDS = {
    "id": "unique name of the row",
    "images": "paths of its images, from this folder, in the order shown, before the text",
    "system": "the system turn, or null",
    "prompt": "the question, without image placeholders",
    "response": "the demonstration: `<caption>`, `<think>` and `<answer>`; null in prompt-only pools",
    "answer": "the reference answer",
    "source": "where the row comes from",
    "task": "what the pool's own scorer needs",
}
TEXTS = {"prompt": "question", "caption": "caption", "think": "reasoning", "answer": "answer", "response": "response"}


def card(
    name: str,
    pools: Mapping[str, Mapping[str, Any]],
    license: str,
    summary: str = "",
    sources: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card as Markdown.

    Args:
        name: title.
        pools: statistics by pool; the files are `<pool>.jsonl`.
        license: the Hub's licence id, e.g. `apache-2.0`.
        summary: what the data are, in words.
        sources: receipts (`repo`, `revision`) of what they were made from.
    """
    parts = [_front_matter(name, pools, license), f"# {name}", summary, _pools(pools)]
    parts += [_characters(pools), _tokens(pools), _fields(pools), _sources(sources)]
    return "\n\n".join(part for part in parts if part) + "\n"


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    return next((name for bound, name in SIZES if rows < bound), "100M<n<1B")


def _front_matter(name: str, pools: Mapping[str, Mapping[str, Any]], license: str) -> str:
    """YAML; JSON's strings are YAML's, whatever is in them."""
    rows = sum(int(pool["rows"]) for pool in pools.values())
    lines = ["---", f"pretty_name: {json.dumps(name, ensure_ascii=False)}", f"license: {json.dumps(license)}"]
    lines += ["task_categories:", "- image-text-to-text", "size_categories:", f"- {size_category(rows)}", "configs:"]
    for pool in pools:
        lines += [f"- config_name: {json.dumps(pool)}", f"  data_files: {json.dumps(f'{pool}.jsonl')}"]
    return "\n".join([*lines, "---"])


def _table(headers: Sequence[str], rows: Sequence[Sequence[object]], texts: Sequence[int] = (0,)) -> str:
    """A Markdown table; columns that are no texts are aligned to the right."""
    lines = [headers, ["---" if column in texts else "---:" for column in range(len(headers))], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _pools(pools: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, f"{pool['rows']:,}", f"{pool['complete']:,}", _images(pool), ", ".join([*pool["sources"]][:4])]
        for name, pool in pools.items()
    ]
    headers = ["pool", "rows", "demonstrations with caption, reasoning and answer", "images", "sources"]
    return f"## Pools\n\n{_table(headers, rows, (0, 4))}"


def _images(pool: Mapping[str, Any]) -> str:
    return f"{sum(int(count) * rows for count, rows in pool['images_per_row'].items()):,}"


def _characters(pools: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [f"{name}: {said}", f"{one['50']:,.0f}", f"{one['95']:,.0f}", f"{one['100']:,.0f}"]
        for name, pool in pools.items()
        for text, said in TEXTS.items()
        if (one := pool["characters"].get(text))
    ]
    return f"## Lengths in characters\n\n{_table(['text', 'median', '95%', 'longest'], rows)}" if rows else ""


def _tokens(pools: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [name, f"{one['total']['50']:,.0f}", f"{one['total']['99']:,.0f}", f"{one['total']['100']:,.0f}",
         f"{one['image_share']:.0%}"]
        for name, pool in pools.items()
        if (one := pool.get("tokens")) and one["rows"]
    ]  # fmt: skip
    if not rows:
        return ""
    return f"## Tokens of a row, images included\n\n{_table(['pool', 'median', '99%', 'longest', 'of images'], rows)}"


def _fields(pools: Mapping[str, Mapping[str, Any]]) -> str:
    there = {name for pool in pools.values() for name in pool["fields"]} | {"images", "prompt"}
    rows = [[f"`{name}`", said] for name, said in FIELDS.items() if name in there]
    return f"## Fields\n\n{_table(['field', 'what it is'], rows, (0, 1))}"


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    lines = sorted({f"- `{source['repo']}` at `{source['revision']}`" for source in sources})
    return "## Made from\n\n" + "\n".join(lines) if lines else ""
