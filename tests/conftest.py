"""Fixtures that several parts of the tests share: the engines' environments, built on first use in the real cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from prism_cli.engines.environments import Environment


def _built(name: str) -> Environment:
    # Imported here because the tests in tests/torch run in an environment that has none of prism's dependencies.
    from prism_cli.engines.environments import ensure

    return ensure(name, print)


@pytest.fixture(scope="session")
def alignment_env() -> Environment:
    return _built("alignment")


@pytest.fixture(scope="session")
def llamafactory_env() -> Environment:
    return _built("llamafactory")


@pytest.fixture(scope="session")
def verl_env() -> Environment:
    return _built("verl")
