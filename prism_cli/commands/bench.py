"""`prism bench`: measure how fast a part of prism is on this machine.

A measurement is a module in `benchmarks/perf/`; it runs in the environment that its `ENGINE` names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class Benchmark:
    """One module of benchmarks/perf, as read from its source."""

    name: str
    engine: str | None
    """Environment it runs in; None: prism's own."""
    what: str
    """First line of its docstring."""


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="What to measure; without it, list what there is.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often each side runs. [default: the measurement's own]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for measurements inside an engine.")] = 1,
    size: Annotated[
        str | None, typer.Option(help="Dimensions, where a measurement has several: tiny, small, 2b, 4b (alignment).")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure how fast a part of prism is.

    Both sides of a comparison run in turns, so that other load on the machine meets both.
    """
    found = benchmarks()
    if name is None:
        _list(found, json_)
        return
    benchmark = _known(found, name)
    chosen = {"--rounds": rounds, "--size": size}
    measured = {"name": benchmark.name, **_measure(benchmark, chosen, threads, quiet=json_)}
    if json_:
        print(json.dumps(measured, indent=2))
    else:
        _print(benchmark, measured)


def benchmarks() -> list[Benchmark]:
    """Every measurement, by name. Reads the sources: importing one may need its engine."""
    import benchmarks.perf as perf

    assert perf.__file__ is not None
    paths = sorted(Path(perf.__file__).parent.glob("[a-z]*.py"))
    return [_read(path) for path in paths]


def _read(path: Path) -> Benchmark:
    import ast

    tree = ast.parse(path.read_text(encoding="utf-8"))
    engine = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "ENGINE" for t in node.targets)
    )
    return Benchmark(path.stem, engine, (ast.get_docstring(tree) or "").partition("\n")[0])


def _known(found: list[Benchmark], name: str) -> Benchmark:
    from integrations.errors import BadInput

    for benchmark in found:
        if benchmark.name == name.replace("-", "_"):
            return benchmark
    raise BadInput(f"there is no benchmark `{name}`", f"choose one of: {', '.join(b.name for b in found)}")


def _measure(benchmark: Benchmark, chosen: Mapping[str, object], threads: int, quiet: bool) -> dict[str, Any]:
    import tempfile

    from benchmarks.digits.settings import DigitsWorld, TinyModel
    from integrations.common.files import read_json, write_json
    from integrations.errors import StageFailed

    with tempfile.TemporaryDirectory(prefix="prism-bench-") as folder:
        top = Path(folder)
        work, out, digits, log = top / "work", top / "result.json", top / "digits.json", top / "log.txt"
        work.mkdir()
        small = DigitsWorld(base_reading=500, base_questions=500, sft_public=500, sft_clean=100, teacher=100, rlvr=10)
        write_json(digits, {"world": small.model_dump(mode="json"), "model": TinyModel().model_dump(mode="json")})
        arguments = ["-m", f"benchmarks.perf.{benchmark.name}", "--out", str(out), "--work", str(work)]
        arguments += ["--digits", str(digits)]
        arguments += [word for name, value in chosen.items() if value is not None for word in (name, str(value))]
        code = _run(benchmark, arguments, threads, log, quiet)
        measured = read_json(out)
        if code != 0 or measured is None:
            said = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
            raise StageFailed(f"the benchmark `{benchmark.name}` ended with code {code}:\n{said}", "")
        return dict(measured)


def _run(benchmark: Benchmark, arguments: list[str], threads: int, log: Path, quiet: bool) -> int:
    """Run the measurement and keep its output; returns the exit code."""
    import subprocess
    import threading

    from integrations.contract import Launch
    from prism_cli.engines import environments, process

    def report(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    if benchmark.engine is None:
        with log.open("wb") as output:
            return subprocess.run([sys.executable, *arguments], stdout=output, stderr=output, check=False).returncode
    environment = environments.ensure(benchmark.engine, report)
    launch = Launch(
        benchmark.engine,
        ["python", *arguments],
        env={"OMP_NUM_THREADS": str(threads)},
        packages=("integrations", "benchmarks"),
        what=f"benchmark {benchmark.name}",
    )
    top = log.parent
    return process.run(
        launch,
        environment,
        cwd=top,
        log=log,
        import_root=top / "import",
        tick=lambda: None,
        stop=threading.Event(),
    )


def _list(found: list[Benchmark], as_json: bool) -> None:
    if as_json:
        told = [{"name": b.name, "engine": b.engine, "what": b.what} for b in found]
        print(json.dumps({"benchmarks": told}, indent=2))
        return
    from prism_cli.ui.tables import print_table

    print_table(["benchmark", "runs in", "what it measures"], [[b.name, b.engine or "prism", b.what] for b in found])


def _print(benchmark: Benchmark, measured: dict[str, Any]) -> None:
    from prism_cli.ui.tables import print_table

    rows = []
    for side, seconds in measured["seconds"].items():
        low, high = measured["range"][side]
        rows.append([side, f"{seconds:.3f}", f"{low:.3f} - {high:.3f}"])
    print_table(["side", "median s", "range"], rows, title=benchmark.what, numbers=[1, 2])
    for table in measured.get("tables", []):
        numbers = range(1, len(table["columns"]))
        print_table(table["columns"], table["rows"], title=table["title"], numbers=numbers)
    for label, ratio in measured["ratios"].items():
        print(f"{label}: {ratio:.2f}")
    facts = ", ".join(f"{key} {value}" for key, value in measured["facts"].items())
    print(f"{measured['rounds']} rounds each, in turns; {facts}")
