"""What a person sees of a run: each view on its own stream, speeds, and calls from several threads."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest
from rich.console import Console

from prism_cli.ui.tables import print_table
from prism_cli.ui.view import LiveView, PlainView, QuietView, View, choose_view, duration, speed


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> tuple[PlainView, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return PlainView(stream, 10.0, clock), stream, clock


def lines(stream: io.StringIO) -> list[str]:
    """What was written, without the time in front."""
    written = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in written)
    return [line[9:] for line in written]


def test_plain_lines_tell_start_progress_and_end() -> None:
    view, stream, clock = plain()
    view.stage_started("shared/sft", 100, 1)
    for step in range(1, 41):
        clock.now += 0.5
        view.stage_progress("shared/sft", step, 100, {"loss": 1 / step}, 0, "training")
    view.stage_finished("shared/sft", "done", 75.4, "2 rows dropped")
    assert lines(stream) == [
        "shared/sft started: 100 steps",
        "shared/sft 20/100, loss 0.05, 2.0 steps/s, 0:40 left",
        "shared/sft 40/100, loss 0.025, 2.0 steps/s, 0:30 left",
        "shared/sft done in 1:15: 2 rows dropped",
    ]


def test_each_stage_has_its_own_turn_to_speak() -> None:
    view, stream, clock = plain()
    view.stage_started("prism/align", 5, 1)
    clock.now += 6
    view.stage_started("control/rlvr", 5, 2)
    clock.now += 5
    view.stage_progress("prism/align", 1, 5, {}, 10, "rollout")
    view.stage_progress("control/rlvr", 1, 5, {}, 10, "training")
    clock.now += 5
    view.stage_progress("control/rlvr", 2, 5, {"a": 1, "b": 2, "c": 3, "d": 4}, 10, "training")
    assert lines(stream) == [
        "prism/align started: 5 steps",
        "control/rlvr started: 5 steps, attempt 2",
        "prism/align 1/5, rollout",
        "control/rlvr 2/5, a 1, b 2, c 3, 5.0 s/step, 0:15 left",
    ]


def test_a_resumed_stage_counts_only_its_own_steps_as_speed() -> None:
    view, stream, clock = plain()
    view.stage_started("shared/sft", 100, 2)
    clock.now += 9
    view.stage_progress("shared/sft", 80, 100, {}, 0, "training")
    clock.now += 2
    view.stage_progress("shared/sft", 82, 100, {}, 0, "training")
    assert lines(stream)[-1] == "shared/sft 82/100, 1.0 steps/s, 0:18 left"


def test_another_phase_begins_with_a_speed_of_its_own() -> None:
    view, stream, clock = plain()
    view.stage_started("prism/align", 10, 1)
    for step in range(1, 5):
        clock.now += 0.1
        view.stage_progress("prism/align", step, 10, {}, 0, "training")
    clock.now += 10
    view.stage_progress("prism/align", 4, 10, {}, 0, "checking")
    assert lines(stream)[-1] == "prism/align 4/10, checking"


def test_messages_and_environments_are_lines() -> None:
    view, stream, clock = plain()
    view.message("one\ntwo [b]not markup[/b]")
    for second in range(25):
        view.environment("verl", f"{second} s")
        view.environment("llamafactory", f"{second} s")
        clock.now += 1
    said = [f"environment {name}: {second} s" for second in (0, 10, 20) for name in ("verl", "llamafactory")]
    assert lines(stream) == ["one", "two [b]not markup[/b]", *said]


def test_a_reader_that_went_away_does_not_stop_the_run() -> None:
    view, stream, _ = plain()
    stream.close()
    view.message("nobody hears this")


def drawn(view: LiveView, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(view.render())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def terminal() -> tuple[LiveView, io.StringIO]:
    stream = io.StringIO()
    return LiveView(Console(file=stream, force_terminal=True, width=80, color_system=None, highlight=False)), stream


def test_the_live_view_has_a_row_per_running_stage() -> None:
    view, stream = terminal()
    try:
        view.environment("verl", "downloading")
        assert drawn(view)[0] == "verl: downloading"
        view.stage_started("shared/sft", 600, 1)
        view.stage_started("prism/discriminator", 20, 2)
        for step in (10, 20, 30):
            view.stage_progress("shared/sft", step, 600, {"lr": 1e-3, "loss": 0.53123}, 0, "training")
        rows = drawn(view)
        assert len(rows) == 2, rows
        assert rows[0].startswith("shared/sft")
        assert " 30/600 loss 0.5312 " in rows[0]
        assert "steps/s" in rows[0]
        assert "starting" in rows[1]
        assert all(len(row) <= 80 for row in rows)
        view.stage_finished("shared/sft", "done", 61, "")
        assert [row.split()[0] for row in drawn(view)] == ["prism/discriminator"]
    finally:
        view.close()
    assert "shared/sft done in 1:01" in stream.getvalue()
    assert "prism/discriminator goes on, attempt 2" in stream.getvalue()


def test_the_live_view_fits_a_narrow_terminal_and_a_long_name() -> None:
    view, _ = terminal()
    try:
        view.stage_started("a-very-long-arm-name-of-forty-letters-xx/align-from-some-other-stage", 100000, 1)
        for step in (99997, 99998):
            view.stage_progress(
                "a-very-long-arm-name-of-forty-letters-xx/align-from-some-other-stage",
                step,
                100000,
                {"reward": 0.123456789},
                1,
                "training",
            )
        for width in (40, 80, 200):
            assert all(len(row) <= width for row in drawn(view, width))
    finally:
        view.close()


def test_nothing_is_drawn_after_the_end() -> None:
    view, stream = terminal()
    view.stage_started("shared/sft", 10, 1)
    view.close()
    view.close()
    written = stream.getvalue()
    view.stage_progress("shared/sft", 3, 10, {}, 0, "training")
    view.stage_started("prism/late", 10, 1)
    view.environment("verl", "late")
    assert stream.getvalue() == written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1, "hide the cursor, and show it again"


def test_the_quiet_view_leaves_standard_output_alone(capfd: pytest.CaptureFixture[str]) -> None:
    exercise(QuietView())
    QuietView().stage_finished("prism/rlvr", "failed", 3, "the engine died")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["prism/rlvr failed in 0:03: the engine died"]


def exercise(view: View, name: str = "shared/sft") -> None:
    view.message("hello")
    view.environment("verl", "building")
    view.stage_started(name, 30, 1)
    for step in range(1, 31):
        view.stage_progress(name, step, 30, {"loss": 1.0}, step, "training")
    view.stage_finished(name, "done", 2.0, "")


@pytest.mark.parametrize("kind", ["live", "plain", "quiet"])
def test_many_threads_may_speak_at_once(kind: str) -> None:
    stream = io.StringIO()
    view: View = {
        "live": LiveView(Console(file=stream, force_terminal=True, width=80, color_system=None)),
        "plain": PlainView(stream),
        "quiet": QuietView(),
    }[kind]
    failed: list[BaseException] = []

    def speak(number: int) -> None:
        try:
            exercise(view, f"arm/stage-{number}")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=speak, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive(), "views wait for each other"
    view.close()
    assert failed == []
    if kind != "quiet":
        assert all(f"arm/stage-{number} done in 0:02" in stream.getvalue() for number in range(8))


def test_the_view_fits_where_the_output_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert isinstance(choose_view(json=False), LiveView)
    assert isinstance(choose_view(json=True), QuietView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_view(json=False), PlainView)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert isinstance(choose_view(json=False), PlainView)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (7, "0:07"), (754, "12:34"), (3599.6, "1:00:00"), (90000, "25:00:00"), (None, "")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(None, ""), (0.0, ""), (2.54, "2.5 steps/s"), (0.25, "4.0 s/step")])
def test_speeds(rate: float | None, text: str) -> None:
    assert speed(rate) == text


def test_tables_fit_80_columns_and_read_no_markup() -> None:
    stream = io.StringIO()
    rows = [["prism", "[51.2, 54.0]", "word " * 30], [None, 7, ""]]
    print_table(["arm", "answer", "note"], rows, title="Result", numbers=(1,), console=Console(file=stream, width=80))
    written = stream.getvalue().splitlines()
    assert written[0].rstrip() == "Result"
    assert "[51.2, 54.0]" in stream.getvalue()
    assert all(len(line) <= 80 for line in written)
    assert any(re.fullmatch(r"\s+7\s*", line) for line in written)
