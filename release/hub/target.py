"""Where a release goes, and whether the token may put it there."""

from __future__ import annotations

from dataclasses import dataclass

from integrations.errors import BadInput
from release import names
from release.hub.client import Hub
from release.hub.failures import LOGIN, clean
from release.hub.repository import RepoType


@dataclass(frozen=True)
class Target:
    """Where a release goes."""

    repo: str
    """NS/NAME."""
    repo_type: RepoType = "model"
    tag: str | None = None
    """Set on the commit; a pull request has none."""
    public: bool = False
    """Make the repository public when all else has succeeded."""
    create_pr: bool = False
    """Open a pull request instead of committing to main; neither tag nor visibility are touched then."""
    message: str = "Release"
    """Of the commit."""


def check(target: Target) -> None:
    """Raises: BadInput: a name of the target is not one."""
    names.repo(target.repo)
    if target.tag is not None:
        names.tag(target.tag)
    if not clean(target.message):
        raise BadInput("The release has no message for its commit.", "Give one.")


def check_rights(hub: Hub, target: Target) -> None:
    """Raises: BadInput: no token, one that the Hub does not know or that may only read, or a foreign namespace."""
    if not hub.signed_in:
        raise no_token()
    me = hub.ask("see whose token this is", hub.api.whoami)
    token = (me.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise BadInput("This token may only read.", LOGIN)
    if target.create_pr:
        return
    owner = target.repo.split("/")[0]
    roles = {str(me.get("name", "")).casefold(): "admin"}
    roles |= {str(each.get("name", "")).casefold(): str(each.get("roleInOrg")) for each in me.get("orgs") or []}
    if roles.get(owner.casefold()) in (None, "read", "no_access"):
        raise BadInput(
            f"The token's account, {clean(me.get('name'))}, may not publish under {owner}.",
            f"Release to a namespace of that account, or ask for write access to {owner}; --create-pr needs none.",
        )


def no_token() -> BadInput:
    return BadInput("There is no token for the Hub.", LOGIN)
