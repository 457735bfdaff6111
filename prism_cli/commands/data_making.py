"""`prism data distill`, `filter` and `pairs`: make data by asking models behind OpenAI-compatible addresses."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from integrations.common.rows import Row
    from prism_cli.making.asking import Answer, Asker, Request
    from prism_cli.making.cost import Meter

SERVER, DRAWN, MONEY = "The server", "How answers are drawn", "What it may cost"
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for results and the journal.")]
Model = Annotated[
    str | None, typer.Option(help="Its name there. [default: the only one listed]", rich_help_panel=SERVER)
]
Key = Annotated[
    str | None,
    typer.Option("--key-variable", help="Variable that holds the key. [OPENAI_API_KEY]", rich_help_panel=SERVER),
]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at the same time.", rich_help_panel=SERVER)]
Timeout = Annotated[float, typer.Option(min=1, help="Seconds for one answer.", rich_help_panel=SERVER)]
Temperature = Annotated[float, typer.Option(min=0, help="0: the likeliest token each time.", rich_help_panel=DRAWN)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer.", rich_help_panel=DRAWN)]
Seed = Annotated[int, typer.Option(min=0, help="Sample n is asked with seed + n.", rich_help_panel=DRAWN)]
PriceIn = Annotated[
    float, typer.Option(min=0, help="Per million prompt tokens, in any currency.", rich_help_panel=MONEY)
]
PriceOut = Annotated[float, typer.Option(min=0, help="Per million completion tokens.", rich_help_panel=MONEY)]
MaxCost = Annotated[float | None, typer.Option(min=0, help="Stop when so much is spent.", rich_help_panel=MONEY)]
FormatPrompt = Annotated[
    bool,
    typer.Option(
        "--format-prompt", help="Ask for the paper's form where a row has no system turn.", rich_help_panel=DRAWN
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be asked and what it may cost; ask nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def distill(
    problems: Annotated[Path, typer.Argument(metavar="PROBLEMS", help="Pool of rows with answers (JSON lines).")],
    teacher: Annotated[str, typer.Option(metavar="URL", help="Of the teacher's server.", rich_help_panel=SERVER)],
    out: Out,
    model: Model = None,
    pass_rates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="pass_rates.jsonl of `prism data filter`: only what a policy fails on."),
    ] = None,
    max_pass_rate: Annotated[float, typer.Option(min=0, max=1, help="Of the problems kept by it.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Answers for each problem.", rich_help_panel=DRAWN)] = 1,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="Keep every answer that passes, not the first.")] = False,
    judge: Annotated[
        str | None, typer.Option(metavar="URL", help="A judge's server, for the third filter.", rich_help_panel=SERVER)
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="Its name there.", rich_help_panel=SERVER)] = None,
    key_variable: Key = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 8192,
    seed: Seed = 0,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    max_cost: MaxCost = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Collect demonstrations in the paper's form from a teacher, and keep those that pass its filters.

    Each answer is kept as it comes: a killed command goes on, and asks nothing twice. What passes is in
    `demonstrations.jsonl`, what does not in `rejected.jsonl` with the reason.
    """
    from benchmarks.scoring.prompt import FORMAT_PROMPT
    from integrations.common.judge import Judge
    from prism_cli.making import distill as distilling
    from prism_cli.making.asking import Sampling, usable_rows

    rows = usable_rows(problems, limit)
    chosen = distilling.hardest(rows, pass_rates, max_pass_rate)
    drawn = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    asker = _asker(teacher, model, "teacher", key_variable, concurrency, timeout, problems, out, drawn, FORMAT_PROMPT)
    money = (price_in, price_out, max_cost)
    verifier = None if judge is None else Judge(judge, judge_model, key_variable=key_variable, concurrency=concurrency)
    requests, answers, meter = _ask(asker, chosen, samples, money, dry_run, json_)
    if answers is None:
        return
    with _stoppable() as stop:
        tick = _counting("verdicts", json_)
        verify = distilling.judged_by(verifier, out / distilling.VERDICTS, tick, stop) if verifier else None
        result = distilling.sift(requests, answers, verify, asker.chat.model.rsplit("/", 1)[-1], keep_all)
    distilling.write(result, problems, out)
    told = {
        "problems": len(rows),
        "asked": len(chosen),
        "filters": result.counts,
        "why": dict(result.why.most_common()),
        "demonstrations": len(result.rows),
        "problems_with_one": result.problems,
    }
    _finish(out, told, meter, json_)
    if not json_:
        _show_filters(told, out / distilling.DEMONSTRATIONS)


def filter_(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Pool of rows with answers (JSON lines).")],
    policy: Annotated[str, typer.Option(metavar="URL", help="Of the policy's server.", rich_help_panel=SERVER)],
    out: Out,
    model: Model = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers for each prompt.", rich_help_panel=DRAWN)] = 16,
    low: Annotated[float, typer.Option(min=0, max=1, help="Lowest pass rate that is kept.")] = 0.2,
    high: Annotated[float, typer.Option(min=0, max=1, help="Highest pass rate that is kept.")] = 0.8,
    key_variable: Key = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 8192,
    seed: Seed = 0,
    format_prompt: FormatPrompt = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Keep the prompts that a policy answers right sometimes: a rate between 0.2 and 0.8 in 16 samples.

    Answers are judged as the reward judges them. Rates of every prompt are in `pass_rates.jsonl`, the rows that were
    kept in `kept.jsonl`. Serve the policy with vLLM, or a small one with `prism judge serve`.
    """
    from benchmarks.scoring.prompt import FORMAT_PROMPT
    from integrations.common.files import write_text
    from integrations.errors import BadInput
    from prism_cli.making import passes
    from prism_cli.making.asking import Sampling, usable_rows
    from prism_cli.making.distill import lines, place_images

    if low > high:
        raise BadInput(f"--low {low:g} is above --high {high:g}", "give bounds in their order")
    rows = usable_rows(prompts, limit)
    drawn = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    system = FORMAT_PROMPT if format_prompt else None
    asker = _asker(policy, model, "policy", key_variable, concurrency, timeout, prompts, out, drawn, system)
    requests, answers, meter = _ask(asker, rows, samples, (0.0, 0.0, None), dry_run, json_)
    if answers is None:
        return
    tick = _counting("judged", json_)
    found = passes.rates(requests, answers, lambda done: tick(done, len(requests)))
    kept = passes.keep(rows, found, low, high)
    place_images(kept, prompts, out)
    write_text(out / passes.PASS_RATES, lines(rate.to_json() for rate in found))
    write_text(out / passes.KEPT, lines(kept))
    told = {"prompts": len(rows), "samples": samples, **passes.counts(found, low, high), "spread": passes.spread(found)}
    _finish(out, told, meter, json_)
    if not json_:
        _show_rates(told, out / passes.KEPT)


def pairs(
    teacher: Annotated[Path, typer.Argument(metavar="TEACHER", help="Pool of rows with demonstrations (JSON lines).")],
    policy: Annotated[str, typer.Option(metavar="URL", help="Of the policy's server.", rich_help_panel=SERVER)],
    out: Out,
    model: Model = None,
    samples: Annotated[int, typer.Option(min=1, help="Pairs for each prompt.", rich_help_panel=DRAWN)] = 1,
    key_variable: Key = None,
    concurrency: Concurrency = 16,
    timeout: Timeout = 600.0,
    temperature: Temperature = 1.0,
    max_tokens: MaxTokens = 8192,
    seed: Seed = 0,
    format_prompt: FormatPrompt = False,
    limit: Limit = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Make warm-up pairs for a discriminator: the teacher's and the policy's response to each prompt.

    Asked in the same folder with the same options, it uses the answers that `prism data filter` got. In `pairs.jsonl`,
    in the published form.
    """
    from benchmarks.scoring.prompt import FORMAT_PROMPT
    from integrations.common.files import write_text
    from prism_cli.making import pairs as pairing
    from prism_cli.making.asking import Sampling, usable_rows
    from prism_cli.making.distill import lines, place_images

    rows = pairing.teachers(usable_rows(teacher, limit))
    drawn = Sampling(temperature=temperature, max_tokens=max_tokens, seed=seed)
    system = FORMAT_PROMPT if format_prompt else None
    asker = _asker(policy, model, "policy", key_variable, concurrency, timeout, teacher, out, drawn, system)
    requests, answers, meter = _ask(asker, rows, samples, (0.0, 0.0, None), dry_run, json_)
    if answers is None:
        return
    made, left_out = pairing.make(requests, answers)
    place_images(made, teacher, out)
    write_text(out / pairing.PAIRS, lines(made))
    told = {"prompts": len(rows), "pairs": len(made), "left_out": dict(left_out)}
    _finish(out, told, meter, json_)
    if not json_:
        missing = ", ".join(f"{count} {why}" for why, count in left_out.items())
        print(f"{len(made)} pairs of {len(rows)} prompts{f'; left out: {missing}' if missing else ''}")
        print(out / pairing.PAIRS)


COMMANDS: dict[str, Callable[..., None]] = {"distill": distill, "filter": filter_, "pairs": pairs}


def _asker(
    url: str,
    model: str | None,
    role: str,
    key_variable: str | None,
    concurrency: int,
    timeout: float,
    pool: Path,
    out: Path,
    drawn: Any,
    system: str | None,
) -> Asker:
    from integrations.common.chat import Chat
    from prism_cli.making.asking import Asker

    chat = Chat(
        url, model, role=role, key_variable=key_variable, concurrency=concurrency, timeout=timeout, attempts=6,
        patience=1.0,
    )  # fmt: skip
    return Asker(chat, pool, out, drawn, system)


def _ask(
    asker: Asker,
    rows: Sequence[Row],
    samples: int,
    money: tuple[float, float, float | None],
    dry_run: bool,
    quiet: bool,
) -> tuple[list[Request], Mapping[str, Answer] | None, Meter]:
    """Requests and their answers; None for the answers of a dry run, which is told here."""
    from prism_cli.making.cost import Meter, Prices, estimate

    prices = Prices(money[0], money[1])
    meter = Meter(prices, money[2])
    requests = asker.requests(rows, samples)
    known = asker.answers()
    left = [request for request in requests if request.key not in known]
    characters = sum(len(one.row["prompt"]) + len(asker.system or "") for one in left)
    images = sum(len(one.row["images"]) for one in left)
    likely, most = estimate(prices, characters, images, len(left), asker.sampling.max_tokens)
    told: dict[str, float] = {"requests": len(requests), "answered_before": len(requests) - len(left)}
    if prices:
        told |= {"cost_about": round(likely, 4), "cost_at_most": round(most, 4)}
    if dry_run and quiet:
        print(json.dumps(told, indent=2))
    elif not quiet:
        cost = f", about {likely:.2f} and at most {most:.2f} to pay" if prices else ""
        before = f", {len(requests) - len(left)} of them answered before" if len(left) < len(requests) else ""
        print(f"{len(requests)} requests{before}{cost}", file=sys.stderr)
    if dry_run:
        return requests, None, meter
    with _stoppable() as stop:
        return requests, asker.ask(requests, meter, _progress(meter, quiet), stop), meter


class _stoppable:
    """Ctrl-C and a polite kill end the asking; the journal keeps what was answered."""

    def __enter__(self) -> threading.Event:
        from prism_cli.pipeline.execute import stop_signals

        stop = threading.Event()
        self._signals = stop_signals(stop)
        self._signals.__enter__()
        return stop

    def __exit__(self, *error: Any) -> None:
        self._signals.__exit__(*error)


def _progress(meter: Meter, quiet: bool) -> Any:
    count = _counting("answers", quiet)

    def tick(done: int, total: int, failed: int) -> None:
        to_come = meter.to_come(total - done)
        cost = f", {meter.spent:.2f} spent, about {to_come:.2f} to come" if meter.prices and to_come is not None else ""
        count(done, total, f"{f', {failed} failed' if failed else ''}{cost}")

    return tick


def _counting(what: str, quiet: bool) -> Any:
    """A changing line on a terminal, a line every ten seconds elsewhere, from two seconds on."""
    started, terminal = time.monotonic(), sys.stderr.isatty()
    last = [started]

    def tick(done: int, total: int, more: str = "") -> None:
        now = time.monotonic()
        if quiet or now - started < 2 or (done < total and now - last[0] < (0.2 if terminal else 10)):
            return
        last[0] = now
        begin, end = ("\r", "\n" if done >= total else "") if terminal else ("", "\n")
        print(f"{begin}{done} of {total} {what}{more}  ", end=end, file=sys.stderr, flush=True)

    return tick


def _finish(out: Path, told: dict[str, Any], meter: Meter, as_json: bool) -> None:
    """Write the counts beside the result, and print them where JSON is asked for."""
    from integrations.common.files import write_json

    told["spent_now"] = meter.to_json()
    write_json(out / "counts.json", told)
    if as_json:
        print(json.dumps(told, indent=2))


def _show_filters(told: Mapping[str, Any], path: Path) -> None:
    from prism_cli.ui.tables import print_table

    rows = [[name, one["seen"], one["passed"]] for name, one in told["filters"].items()]
    print_table(["filter", "seen", "passed"], rows, numbers=[1, 2])
    for why, count in told["why"].items():
        print(f"  {count} {why}")
    if "verified" not in told["filters"]:
        print("No judge was given: nothing but the rules looked at the answers.")
    print(f"{told['demonstrations']} demonstrations for {told['problems_with_one']} of {told['asked']} problems")
    print(path)


def _show_rates(told: Mapping[str, Any], path: Path) -> None:
    from prism_cli.ui.tables import print_table

    widest = max(told["spread"]) or 1
    rows = [
        [f"{index / 10:.1f} - {(index + 1) / 10:.1f}", count, "█" * round(40 * count / widest)]
        for index, count in enumerate(told["spread"])
    ]
    print_table(["pass rate", "prompts", ""], rows, numbers=[1])
    ends = f"{told['never right']} never right, {told['always right']} always"
    print(f"{told['kept']} kept, {told['too hard']} too hard, {told['too easy']} too easy ({ends})")
    print(path)
