"""What the engine said of the folder: does the model fit its configuration, does it read an image, does it answer.

The asking is done in the alignment engine's environment (`integrations.alignment.release_probe`); here is what its
answer means. Its form:

    {"problems": {"weights": [..], "processor": [..], "canary": [..]}, "canary": {"prompt": .., "response": ..,
     "log_probability": -41.3, "tolerance": 0.01, "dtype": "float32"}, "versions": {..}, "seconds": 4.1}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from release.checks.view import Check, Found, View, shown

_SHOWN = 300


def canary_difference(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """How a model's answer differs from the one recorded for it, as a sentence; empty when it does not.

    Raises nothing: a canary of another prompt or without numbers differs.
    """
    for name in ("prompt", "response", "image", "dtype"):
        if recorded.get(name) != found.get(name):
            return f"the recorded {name} is {shown(recorded.get(name))}, the one asked is {shown(found.get(name))}"
    numbers: list[Any] = [recorded.get("log_probability"), found.get("log_probability"), recorded.get("tolerance")]
    if not all(isinstance(number, float) for number in numbers):
        return "there is no recorded log-probability with its tolerance"
    told, now, tolerance = numbers
    if not abs(now - told) <= tolerance:
        return f"the response has log-probability {now:.6g} nats, {told:.6g} within {tolerance:.2g} was recorded"
    return ""


def _told(part: str) -> Any:
    def run(view: View) -> Found:
        probe = view.context.probe
        if probe is not None and view.is_model:
            return [("", shown(problem, _SHOWN)) for problem in probe["problems"].get(part, ())]
        return ()

    return run


def _asked(view: View) -> Found:
    """A model that nobody loaded, or that gave no number to compare with later."""
    if not view.is_model:
        return
    probe = view.context.probe
    if probe is None:
        yield "", "was not loaded in the alignment engine's environment"
    elif not probe["canary"] and not any(probe["problems"].values()):
        yield "", "was loaded, but no log-probability was recorded"
    elif view.manifest.canary and (problem := canary_difference(view.manifest.canary, probe["canary"])):
        yield "provenance/manifest.json: canary", problem


_ENGINE = "read the message above, repair the model's folder, and release it again"

CHECKS = (
    Check(
        "weights-fit", "error", "Weights that do not fit the configuration",
        "The class of config.json, built without memory, against names and shapes in the weights' headers.", _ENGINE,
        _told("weights"),
    ),
    Check(
        "processor", "error", "Processor or chat template that does not work",
        "Both load from the folder alone and render one message of an image and a text.", _ENGINE, _told("processor"),
    ),
    Check(
        "answer", "error", "Model that does not answer",
        "The loaded model gives a fixed response to a fixed image and prompt a finite log-probability.", _ENGINE,
        _told("canary"),
    ),
    Check(
        "loaded", "error", "Model that was not loaded",
        "Whether the three checks above were made, and the recorded log-probability still holds.",
        "build the environment with `prism env build alignment`, and release it again", _asked,
    ),
)  # fmt: skip
