"""A comparison as Markdown, LaTeX or CSV. Labels are untrusted text: each format's own marks in them are escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence

from benchmarks.compare.result import Comparison, Difference, Row, Score
from benchmarks.compare.sheets import Sheet, sheets
from integrations.common.chat import printable

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"\(\pm\)",
}  # fmt: skip

CSV_COLUMNS = (
    "suite", "protocol", "model", "baseline", "benchmark", "metric", "score", "score_low", "score_high", "n",
    "clusters", "over", "unparseable", "truncated", "tokens", "judge_errors",
    "difference", "difference_low", "difference_high", "p", "p_holm", "test", "win", "loss", "tie",
)  # fmt: skip


def markdown(found: Sequence[Comparison], extra: Sequence[Sheet], metric: str | None) -> str:
    """Tables in GitHub's Markdown, with notes and conclusions between."""
    blocks = []
    for comparison in found:
        blocks += [_markdown_sheet(sheet) for sheet in sheets(comparison, metric)]
        blocks += [_markdown(line) for line in _lines(comparison)]
    blocks += [_markdown_sheet(sheet) for sheet in extra]
    return "\n\n".join(blocks) + "\n"


def latex(found: Sequence[Comparison], extra: Sequence[Sheet], metric: str | None) -> str:
    """Tables for the booktabs package, with notes and conclusions as comments."""
    blocks = []
    for comparison in found:
        blocks += [_latex_sheet(sheet) for sheet in sheets(comparison, metric)]
        blocks += [f"% {printable(line, 2000)}" for line in _lines(comparison)]
    blocks += [_latex_sheet(sheet) for sheet in extra]
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"


def csv_text(found: Sequence[Comparison]) -> str:
    """One line per model, benchmark and metric, and per macro-average; rates in [0, 1], empty where undefined."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for comparison in found:
        for row in comparison.rows:
            names = [b.column.name for b in comparison.benchmarks]
            for name in [*names, *(["macro"] if len(names) > 1 else [])]:
                for metric in comparison.metrics:
                    line = _csv_line(row, name, metric)
                    head = {"suite": comparison.suite, "protocol": comparison.protocol, "model": row.label}
                    head |= {"baseline": row.baseline or "", "benchmark": name, "metric": metric}
                    if line:
                        writer.writerow({**{key: _inert(text) for key, text in head.items()}, **line})
    return stream.getvalue()


def _lines(found: Comparison) -> list[str]:
    lines = [*found.notes, *(f"Left out: {refusal}" for refusal in found.refused)]
    return [*lines, found.conclusion] if found.conclusion else lines


def _markdown_sheet(sheet: Sheet) -> str:
    lines = [f"**{_markdown(sheet.title)}**", ""]
    lines.append(f"| {' | '.join(map(_markdown, sheet.headers))} |")
    lines.append(f"|{'|'.join('---' if i in sheet.words else '---:' for i in range(len(sheet.headers)))}|")
    lines += [f"| {' | '.join(map(_markdown, row))} |" for row in sheet.rows]
    return "\n".join([*lines, *(f"\n{_markdown(note)}" for note in sheet.notes)])


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~#&!])", r"\\\1", printable(text, 2000))


def _latex_sheet(sheet: Sheet) -> str:
    columns = "".join("l" if index in sheet.words else "r" for index in range(len(sheet.headers)))
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in sheet.rows]
    lines = [
        f"% {printable(sheet.title, 2000)}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_latex, sheet.headers)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {printable(note, 2000)}" for note in sheet.notes),
    ]
    return "\n".join(lines)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in printable(text, 2000))


def _csv_line(row: Row, name: str, metric: str) -> dict[str, object]:
    macro = name == "macro"
    score = (row.macro if macro else row.scores.get(name, {})).get(metric)
    difference = (row.macro_difference if macro else row.differences.get(name, {})).get(metric)
    answers = None if macro else row.answers.get(name)
    line = {**_score(score), **_difference(difference)}
    if line and answers is not None:
        line |= {key: _number(value) for key, value in vars(answers).items()}
    return line


def _score(score: Score | None) -> dict[str, object]:
    if score is None:
        return {}
    return {
        "score": _number(score.value),
        "score_low": _number(score.low),
        "score_high": _number(score.high),
        "n": score.n,
        "clusters": score.clusters,
        "over": score.over,
    }


def _difference(difference: Difference | None) -> dict[str, object]:
    if difference is None:
        return {}
    return {
        "difference": _number(difference.value),
        "difference_low": _number(difference.low),
        "difference_high": _number(difference.high),
        "p": _number(difference.p),
        "p_holm": _number(difference.p_holm),
        "test": difference.test,
        "win": difference.win,
        "loss": difference.loss,
        "tie": difference.tie,
    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    shown = printable(text, 2000)
    return f"'{shown}" if shown[:1] in "=+-@" and shown else shown
