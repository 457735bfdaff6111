"""One collection for a family of repositories: made or found by its title, and filled; again changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from release import names
from release.hub.client import Hub, connect
from release.hub.progress import Tell
from release.hub.repository import RepoType

if TYPE_CHECKING:
    from huggingface_hub import Collection

LONGEST_NOTE = 500


@dataclass(frozen=True)
class Item:
    """A repository in a collection."""

    repo: str
    """NS/NAME."""
    repo_type: RepoType = "model"
    note: str = ""
    """Shown beside it, up to `LONGEST_NOTE` characters; what is there already keeps its note."""


def gather(title: str, namespace: str, items: Sequence[Item], public: bool, tell: Tell) -> str:
    """Put repositories into the namespace's collection of that title, after what it holds.

    Args:
        title: of the collection.
        namespace: user or organization that owns it.
        items: in order.
        public: make the collection public, where it is not; a public one is never made private.
        tell: given one line for each thing done.

    Returns:
        The collection's address.

    Raises:
        BadInput: the title or a name is not one, or the token may not.
        HubFailed: the network or the Hub failed for longer than was waited.
    """
    names.collection(title)
    for item in items:
        names.repo(item.repo)
    hub = connect()
    collection = _found(hub, title, namespace) or _made(hub, title, namespace, public, tell)
    held = {(each.item_type, each.item_id) for each in collection.items}
    for item in items:
        if (item.repo_type, item.repo) not in held:
            tell(f"Adding {item.repo} to the collection {title}")
            _add(hub, collection.slug, item)
    if public and collection.private:
        tell(f"Making the collection {title} public")
        hub.ask(
            f"make the collection {title} public",
            lambda: hub.api.update_collection_metadata(collection.slug, private=False),
        )
    return f"{hub.endpoint}/collections/{collection.slug}"


def _found(hub: Hub, title: str, namespace: str) -> Collection | None:
    """The namespace's collection of that title, with all its items (a listing shows the first few)."""
    listed = hub.ask(f"list the collections of {namespace}", lambda: [*hub.api.list_collections(owner=namespace)])
    slug = next((each.slug for each in listed if each.title.casefold() == title.casefold()), None)
    return hub.ask(f"read the collection {title}", lambda: hub.api.get_collection(slug)) if slug else None


def _made(hub: Hub, title: str, namespace: str, public: bool, tell: Tell) -> Collection:
    tell(f"Creating the collection {title}")
    return hub.ask(
        f"create the collection {title}",
        lambda: hub.api.create_collection(title, namespace=namespace, private=not public, exists_ok=True),
    )


def _add(hub: Hub, slug: str, item: Item) -> None:
    note = item.note[:LONGEST_NOTE] or None
    hub.ask(
        f"add {item.repo} to a collection",
        lambda: hub.api.add_collection_item(slug, item.repo, item.repo_type, note=note, exists_ok=True),
    )
