"""The card of a data set, from its facts.

files = render_dataset(facts, manifest.files)
"""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from huggingface_hub import DatasetCardData

from integrations.common.dataset_card import size_category
from release.card import metadata, text
from release.card.render import FACTS, RECIPE, environment
from release.facts import DatasetFacts, Pool
from release.manifest import Entry


def render_dataset(facts: DatasetFacts, files: Mapping[str, Entry]) -> dict[str, str | bytes]:
    """Everything in a data set's release but the data and the manifest; equal facts give equal bytes.

    Args:
        files: of the assembled folder, the pools at `data/<pool>.parquet`.

    Raises:
        BadInput: a field that the card needs is not filled.
    """
    own = {path: entry for path, entry in sorted(files.items()) if path.startswith("data/")}
    body = environment().get_template("dataset.md.j2").render(facts=facts, files=own, splits=_splits(facts.pools))
    head = front_matter(facts).to_yaml()
    return {
        "LICENSE": environment().get_template("CC-BY-4.0.j2").render(facts=facts, text=text),
        "README.md": metadata.checked(f"---\n{head}\n---\n\n{body}"),
        FACTS: facts.to_json(),
        RECIPE: yaml.safe_dump(facts.recipe.resolved, sort_keys=False, allow_unicode=True, width=120),
    }


def front_matter(facts: DatasetFacts) -> DatasetCardData:
    """The card's metadata: one configuration for each pool, so that pools are never mixed."""
    rows = sum(pool.rows for pool in facts.pools)
    splits = _splits(facts.pools)
    return DatasetCardData(
        license=facts.licence,
        language=["en"],
        pretty_name=text.plain(facts.name),
        annotations_creators=["machine-generated"],
        task_categories=["visual-question-answering"],
        size_categories=[size_category(rows)],
        tags=["prism", "vision-language", f"arxiv:{metadata.PAPER}"],
        configs=[
            {
                "config_name": pool.name,
                "data_files": [{"split": splits[pool.name], "path": f"data/{pool.name}.parquet"}],
            }
            for pool in facts.pools
        ],
    )


def _splits(pools: list[Pool]) -> dict[str, str]:
    """The split that the Hub knows each pool as."""
    return {
        pool.name: ("validation" if pool.name == "validation" else "test") if pool.held_out else "train"
        for pool in pools
    }
