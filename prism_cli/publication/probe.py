"""Has a release loaded in the alignment engine's environment: what no light process can see of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integrations.common.files import read_json
from integrations.contract import Launch
from integrations.errors import Interrupted, StageFailed
from prism_cli.engines import environments, process

SECONDS = 3600.0
"""Longest time that loading and answering may take; a chat template from elsewhere may never end."""
_ANSWER = {"problems", "canary", "versions", "seconds"}


def probe(
    folder: Path,
    work: Path,
    *,
    tell: Callable[[str], None] = lambda text: None,
    stop: threading.Event | None = None,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """What `integrations.alignment.release_probe` says of a folder with a model; `release.checks.loading` has its form.

    Args:
        folder: a release's folder, or one that was downloaded; nothing is written to it.
        work: where the log and the answer go, outside the folder; made where it is missing.
        tell: given news while the environment is built, where it is not there yet.
        stop: when set, the engine is ended within seconds.
        seconds: after which the engine is ended too.

    Raises:
        StageFailed: the engine gave no answer; the log is named.
        Interrupted: `stop` was set.
    """
    asked = stop or threading.Event()
    given_up = threading.Event()
    environment = environments.ensure("alignment", tell)
    work.mkdir(parents=True, exist_ok=True)
    out, log = work.absolute() / "probe.json", work.absolute() / "probe.log"
    out.unlink(missing_ok=True)
    argv = ["python", "-m", "integrations.alignment.release_probe"]
    argv += ["--folder", str(folder.absolute()), "--out", str(out)]
    threads = {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    launch = Launch("alignment", argv, threads, what="loading the release")
    timer = threading.Timer(seconds, given_up.set)
    timer.daemon = True
    timer.start()
    try:
        code = process.run(
            launch,
            environment,
            cwd=work.absolute(),
            log=log,
            import_root=work.absolute() / "import",
            tick=lambda: None,
            stop=_Either(asked, given_up),
        )
    finally:
        timer.cancel()
    if asked.is_set():
        raise Interrupted("stopped", "run the same command again to go on from here")
    if given_up.is_set():
        raise StageFailed(f"loading {folder} took over {seconds:.0f} seconds and was ended", f"read {log}")
    answer = read_json(out)
    if code or not isinstance(answer, dict) or answer.keys() != _ANSWER:
        raise StageFailed(f"the alignment engine {process.describe_exit(code)} and gave no answer", f"read {log}")
    return answer


class _Either(threading.Event):
    """Set when one of two is."""

    def __init__(self, *others: threading.Event) -> None:
        super().__init__()
        self.others = others

    def is_set(self) -> bool:
        return any(other.is_set() for other in self.others)
