import errno
import importlib

import pytest
from huggingface_hub import errors

from integrations.errors import BadInput
from release.hub.failures import HubFailed, HubRefused, asked_pause, explain

http = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])
HUB = "https://hub.example"


def answered(kind, status, **headers):
    request = http.Request("GET", f"{HUB}/api/models/a/b")
    return kind("an error", response=http.Response(status, headers=headers, request=request))


def after(error, cause):
    error.__cause__ = cause
    return error


FULL = OSError(errno.ENOSPC, "No space left on device", "/somewhere/model.safetensors")


@pytest.mark.parametrize(
    ("error", "kind", "passing", "says"),
    [
        (answered(errors.HfHubHTTPError, 500), HubFailed, True, "the Hub answered 500."),
        (answered(errors.HfHubHTTPError, 429), HubFailed, True, "Wait a few minutes"),
        (answered(errors.HfHubHTTPError, 409), HubFailed, False, "answered 409"),
        (answered(errors.HfHubHTTPError, 412), HubFailed, False, "answered 412"),
        (answered(errors.HfHubHTTPError, 413), HubFailed, False, "answered 413"),
        (answered(errors.HfHubHTTPError, 401), HubRefused, False, "does not know this token"),
        (answered(errors.HfHubHTTPError, 403), HubRefused, False, "may not do this"),
        (answered(errors.RepositoryNotFoundError, 401), HubRefused, False, "Check the name"),
        (answered(errors.GatedRepoError, 403, **{"X-Error-Code": "GatedRepo"}), HubRefused, False, "Ask for access"),
        (
            answered(errors.RevisionNotFoundError, 404, **{"X-Error-Code": "RevisionNotFound"}),
            HubRefused,
            False,
            "tags",
        ),
        (http.ConnectError("no route"), HubFailed, True, f"{HUB}: no route"),
        (http.ReadTimeout("late"), HubFailed, True, "no answer in time"),
        (http.RemoteProtocolError("gone"), HubFailed, True, "gone"),
        (ConnectionError("from the transport"), HubFailed, True, "from the transport"),
        (FULL, HubFailed, False, "/somewhere/model.safetensors: No space left on device"),
        (after(RuntimeError("Error while uploading"), FULL), HubFailed, False, "Free some space"),
        (after(RuntimeError("Error while uploading"), http.ReadTimeout("late")), HubFailed, True, "no answer in time"),
        (
            after(RuntimeError("Error while uploading"), answered(errors.HfHubHTTPError, 503)),
            HubFailed,
            True,
            "answered 503",
        ),
        (after(RuntimeError("Error while uploading"), HubFailed("own words")), HubFailed, False, "own words"),
        (ValueError("Invalid metadata in README.md.\n- license is unknown"), HubRefused, False, "license is unknown"),
        (RuntimeError("something else"), HubFailed, False, "something else"),
    ],
)
def test_every_error_says_what_and_what_next(error, kind, passing, says):
    told = explain(error, "try this", HUB)
    assert type(told) is kind
    assert getattr(told, "passing", False) is passing
    assert says in f"{told.problem} {told.fix}"
    assert told.fix or told.problem == "own words"


def test_a_refusal_is_bad_input_and_a_defect_is_left_alone():
    assert issubclass(HubRefused, BadInput)
    assert explain(TypeError("a defect"), "try this", HUB) is None


def test_foreign_words_are_made_harmless():
    said = "\x1b[31mno\x1b[0m\n\ttoken hf_" + "A" * 30 + "\u202e" + "x" * 1000
    told = explain(answered(errors.HfHubHTTPError, 403, **{"X-Error-Message": "no"}), "try", HUB)
    assert told.problem == "Could not try: the Hub answered 403 (no)."
    told = explain(RuntimeError(said), "try", HUB)
    assert told.problem.isprintable()
    assert "[token]" in told.problem
    assert len(told.problem) < 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "²"}, None),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, None),
        ({}, None),
    ],
)
def test_the_pause_that_an_answer_asks_for(headers, seconds):
    assert asked_pause(headers) == seconds
