"""The texts of a release, from its facts.

    files = render(facts, manifest.files, pictures)      path -> content, equal facts give equal bytes

`README.md` is the model card; beside it come licence, notice, the facts themselves, the recipe, the comparison and a
drawing of the scores. Nothing is read but facts and the files' hashes; templates are in `release/templates/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from integrations.errors import BadInput
from release.card import metadata, plot, results, text
from release.facts import Facts
from release.folder import MODEL_FILES, allowed
from release.manifest import Entry

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
FACTS = "provenance/facts.json"
RECIPE = "provenance/recipe.yaml"
COMPARISON = "provenance/comparison.json"
SCORES = "images/scores.png"


def render(
    facts: Facts, files: Mapping[str, Entry], pictures: Mapping[str, bytes] | None = None
) -> dict[str, str | bytes]:
    """Everything in a release but the model's own files and the manifest.

    Args:
        files: of the assembled folder; the model's own are listed in the card.
        pictures: by path in the release; the one that `facts.example` names is needed.

    Raises:
        BadInput: a field that the card needs is not filled, a picture is missing, or a policy was not evaluated and
            the release is no draft.
    """
    if facts.evaluation is None and facts.kind != "discriminator" and not facts.draft:
        raise BadInput(f"{facts.repo} was not evaluated", "run `prism eval` first, or release it as a draft")
    found: dict[str, str | bytes] = {
        "LICENSE": (TEMPLATES / "LICENSE").read_text(encoding="utf-8"),
        "NOTICE": environment().get_template("NOTICE.j2").render(facts=facts, text=text),
        FACTS: facts.to_json(),
        RECIPE: yaml.safe_dump(facts.recipe.resolved, sort_keys=False, allow_unicode=True, width=120),
        **metadata.eval_files(facts),
    }
    if facts.evaluation is not None:
        found[COMPARISON] = json.dumps(facts.evaluation.comparisons, indent=2, ensure_ascii=False) + "\n"
    drawing = plot.scores(facts)
    if drawing is not None:
        found[SCORES] = drawing
    found |= _pictures(facts, pictures or {})
    own = {path: entry for path, entry in sorted(files.items()) if allowed(path, MODEL_FILES)}
    found["README.md"] = card(facts, own)
    return dict(sorted(found.items()))


def card(facts: Facts, files: Mapping[str, Entry]) -> str:
    """README.md: front matter and text."""
    try:
        body = environment().get_template("model.md.j2").render(view(facts), files=files)
    except jinja2.UndefinedError as error:
        raise BadInput(f"the card needs a fact that is not there: {error}", "complete the run's records") from error
    return metadata.checked(f"---\n{metadata.front_matter(facts).to_yaml()}\n---\n\n{body}")


def view(facts: Facts) -> dict[str, Any]:
    """What the template is given: the facts, and tables made of them."""
    compared = results.ordered(facts.evaluation) if facts.evaluation else []
    protocol, scores = results.stage_scores(facts)
    return {
        "facts": facts,
        "headlines": [told for one in compared if (told := results.headline(one, facts))],
        "tables": [results.table(one, facts) for one in compared],
        "checkpoints": [results.checkpoints(one, facts) for one in compared],
        "measures": _measures(facts),
        "stage_protocol": protocol,
        "stage_scores": scores,
        "versions": _versions(facts),
        "parents": {stage.name: stage.parents for stage in facts.chain},
        "paper_arxiv": metadata.PAPER,
        "total_seconds": sum(stage.seconds for stage in facts.chain),
        "total_tokens": sum(stage.generated_tokens for stage in facts.chain),
    }


def _measures(facts: Facts) -> list[tuple[str, str]]:
    """What the columns of this release's tables mean."""
    compared = facts.evaluation.comparisons if facts.evaluation else []
    used = {metric for one in compared if len(one["benchmarks"]) == 1 for metric in one["metrics"]} | {results.SCORE}
    return [(results.WORDS[name], told) for name, told in results.MEANINGS.items() if name in used]


def _versions(facts: Facts) -> dict[str, str]:
    """Requirements for the quick start, `name==version` as far as the version is known."""
    engines = {engine.name: engine for engine in facts.engines}
    found: dict[str, str] = {}
    for engine, packages in (("alignment", ("torch", "torchvision", "transformers")), ("vllm", ("vllm",))):
        known = engines[engine].versions if engine in engines else {}
        if facts.weights.transformers and "transformers" in packages:
            known = {"transformers": facts.weights.transformers, **known}
        found |= {name: f"{name}=={known[name]}" if name in known else name for name in packages}
    return found


def _pictures(facts: Facts, pictures: Mapping[str, bytes]) -> dict[str, bytes]:
    wanted = facts.example.image if facts.example else None
    if wanted is None:
        return {}
    if wanted not in pictures:
        raise BadInput(f"the picture {wanted} of the card's example was not given", "give it with the facts")
    return {wanted: pictures[wanted]}


def _inert(value: Any) -> Any:
    """A string as prose, with the blanks at its ends: templates print words with commas and brackets too."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    before, after = (" " if edge.isspace() else "" for edge in (value[:1], value[-1:]))
    return before + text.prose(value) + after


@cache
def environment() -> jinja2.Environment:
    """Templates with the filters of `release.card.text`; an unfilled field is an error.

    Every string that a template prints is made prose, whether or not it says so: what is markup on purpose, or stands
    in a code block and was checked before, is marked `safe` there.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_inert,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for filter_ in (
        text.prose,
        text.code,
        text.literal,
        text.fenced,
        text.short,
        text.count,
        text.number,
        text.duration,
        text.size,
    ):
        made.filters[filter_.__name__] = filter_
    made.filters["rate"] = text.percent
    return made
