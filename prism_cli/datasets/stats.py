"""What a data file holds, in numbers: rows, sources, lengths of texts and segments, images, tokens.

    found = statistics(Path("data/prism/sft.jsonl"))
    found["tokens"] = token_statistics(lengths)         # (rows, 4) as `integrations.llamafactory.lengths` counts them

All of it is JSON; `integrations.common.dataset_card` makes a data set's card of it. Rows stream; four bytes are kept
of each row and text.
"""

from __future__ import annotations

from array import array
from collections import Counter
from pathlib import Path
from typing import Any

from integrations.common.response import parse
from prism_cli.datasets.leakage import Tick
from prism_cli.datasets.reading import items

TEXTS = ("prompt", "response", "caption", "think", "answer")
"""Texts whose characters are counted; the middle three are segments of complete responses."""
QUANTILES = (0, 5, 25, 50, 75, 95, 99, 100)
TOP = 12
"""Sources named, the most frequent first."""


def statistics(file: Path, tick: Tick = lambda done: None) -> dict[str, Any]:
    """Counts of a whole file.

    Raises:
        BadInput: the file cannot be read, or is of no known form.
    """
    sizes = {name: array("I") for name in TEXTS}
    sources: Counter[str] = Counter()
    images: Counter[int] = Counter()
    fields: Counter[str] = Counter()
    rows = complete = 0
    for item in items(file):
        row = item.row
        rows += 1
        fields.update(name for name, value in row.items() if value not in (None, "", []))
        sources[str(row.get("source") or "none")] += 1
        images[len(row["images"]) if isinstance(row.get("images"), list) else 0] += 1
        complete += _measure(row, sizes)
        if rows % 5000 == 0:
            tick(rows)
    tick(rows)
    named = sources.most_common(TOP)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "rows": rows,
        "fields": dict(sorted(fields.items())),
        "complete": complete,
        "sources": dict(named) | ({"others": rest} if (rest := rows - sum(n for _, n in named)) else {}),
        "images_per_row": {str(count): number for count, number in sorted(images.items())},
        "characters": {name: quantiles(values) for name, values in sizes.items() if values},
    }


def _measure(row: dict[str, Any], sizes: dict[str, array[int]]) -> bool:
    """Note the lengths of a row's texts. Returns whether its response has all segments."""
    for name in ("prompt", "response"):
        if isinstance(row.get(name), str) and row[name]:
            sizes[name].append(len(row[name]))
    response = row.get("response")
    parts = parse(response) if isinstance(response, str) else None
    if parts is None:
        if row.get("answer") not in (None, ""):
            sizes["answer"].append(len(str(row["answer"])))
        return False
    for name in ("caption", "think", "answer"):
        sizes[name].append(len(getattr(parts, name)))
    return True


def quantiles(values: Any) -> dict[str, float]:
    """Mean and quantiles, e.g. `{"count": 2, "mean": 3.5, "0": 3, "50": 3.5, "100": 4, ...}`."""
    import numpy as np

    numbers = np.asarray(values, np.float64)
    found = np.percentile(numbers, QUANTILES).round(1).tolist()
    return {"count": len(numbers), "mean": round(float(numbers.mean()), 1)} | dict(
        zip(map(str, QUANTILES), found, strict=True)
    )


def token_statistics(lengths: Any, limit: int | None = None) -> dict[str, Any]:
    """Tokens of all rows that could be counted.

    Args:
        lengths: (rows, 4) integers: prompt, images, response, pixels of the largest image.
        limit: longest row in tokens that will be trained on whole; the rows beyond it are counted.
    """
    import numpy as np

    table = np.asarray(lengths, np.int64)
    counted = table[table[:, 0] > 0]
    if not len(counted):
        return {"rows": 0, "uncounted": len(table)}
    total = counted[:, :3].sum(1)
    found: dict[str, Any] = {"rows": len(counted), "uncounted": len(table) - len(counted), "sum": int(total.sum())}
    found["image_share"] = round(float(counted[:, 1].sum() / total.sum()), 4)
    for name, column in (("prompt", counted[:, 0]), ("images", counted[:, 1]), ("response", counted[:, 2])):
        found[name] = quantiles(column)
    found |= {"total": quantiles(total), "histogram": histogram(total)}
    if limit is not None:
        found["over"] = {"limit": limit, "rows": int((total > limit).sum())}
    return found


def histogram(totals: Any) -> list[dict[str, int]]:
    """Rows by length, in bins that double (two for each doubling): from `least` tokens up to below `below`."""
    import numpy as np

    first, last = np.log2(max(1, totals.min())), np.log2(totals.max() + 1)
    edges = np.unique(np.rint(2 ** (np.arange(np.floor(2 * first), np.ceil(2 * last) + 1) / 2)).astype(int))
    counts, _ = np.histogram(totals, np.append(edges, totals.max() + 1) if edges[-1] <= totals.max() else edges)
    pairs = zip(edges.tolist(), [*edges.tolist()[1:], int(totals.max()) + 1], strict=True)
    return [
        {"least": least, "below": below, "rows": rows}
        for (least, below), rows in zip(pairs, counts.tolist(), strict=False)
    ]


def draw(lengths: Any, out: Path, title: str, limit: int | None = None) -> None:
    """The histogram as a picture: tokens of a whole row, and how many of them are images'."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    table = np.asarray(lengths, np.int64)
    table = table[table[:, 0] > 0]
    total = table[:, :3].sum(1)
    bins = np.linspace(0, max(1, int(total.max()) if len(total) else 1), 60)
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120)
    axes.hist(total, bins=bins, color="#4269d0", label="whole row")
    axes.hist(table[:, 1], bins=bins, color="#efb118", alpha=0.7, label="its images")
    if limit is not None and limit <= bins[-1]:
        axes.axvline(limit, color="#222", linestyle="--", label=f"limit {limit}")
    axes.set(xlabel="tokens", ylabel="rows", title=title)
    if len(total):
        axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png", metadata={"Software": None})
    plt.close(figure)
