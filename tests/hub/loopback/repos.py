"""Users, repositories, their settings, refs and discussions, and collections."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from loopback.cards import problems
from loopback.messages import Refused, Reply, Request
from loopback.store import Repo
from loopback.uploads import discussion

_NAME = re.compile(r"(?!.*(--|\.\.))[\w][\w.-]{0,95}(?<![.-])(?<!\.git)", re.ASCII)


def whoami(request: Request) -> Reply:
    user = request.known_user()
    token: dict[str, Any] = {"displayName": "test", "role": user.role, "createdAt": "2026-01-01T00:00:00.000Z"}
    if user.role == "fineGrained":
        kinds = {user.name: "user"}
        entities = {name: {"_id": name, "type": kinds.get(name, "org"), "name": name} for name in user.scopes}
        scoped = [{"entity": entities[name], "permissions": list(may)} for name, may in user.scopes.items()]
        token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": scoped}
    orgs = [{"type": "org", "id": name, "name": name, "roleInOrg": role} for name, role in user.orgs.items()]
    told = {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "orgs": orgs}
    return Reply.json(told | {"auth": {"type": "access_token", "accessToken": token}})


def validate(request: Request) -> Reply:
    told = request.json()
    errors, warnings = problems(told["content"], told.get("repoType", "model"))
    listed = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Reply.json(listed, 400 if errors else 200)


def agents(request: Request) -> Reply:
    """A list that 2.x asks for when it writes to a terminal."""
    return Reply.json({"standardEnvVars": [], "harnesses": {}})


def create(request: Request) -> Reply:
    user, told = request.known_user(), request.json()
    namespace, type = told.get("organization") or user.name, told.get("type") or "model"
    id = f"{namespace}/{told['name']}"
    if not _NAME.fullmatch(told["name"]):
        raise Refused(400, f"Invalid repo name: {told['name']}")
    if not user.may_write(namespace):
        message = f'You don\'t have the rights to create a {type} under the namespace "{namespace}"'
        raise Refused(403, message)
    hub = request.hub
    with hub.store.lock:
        repo = hub.store.load(type, id)
        if repo is not None:
            raise Refused(409, f"You already created this {type} repo: {id}", url=hub.page(repo), name=id)
        private = told.get("visibility") == "private" or bool(told.get("private"))
        repo = hub.store.create(type, id, private, user.name)
    return Reply.json({"url": hub.page(repo), "name": id, "id": id})


def delete(request: Request) -> Reply:
    user, told = request.known_user(), request.json()
    namespace = told.get("organization") or user.name
    with request.hub.store.lock:
        repo = request.hub.store.load(told.get("type") or "model", f"{namespace}/{told['name']}")
        if repo is None:
            raise Refused(404, "Repository not found", "RepoNotFound")
        if not user.may_write(namespace):
            raise Refused(403, f"You don't have write access to {repo.id}")
        request.hub.store.delete(repo)
    return Reply.json({})


def settings(request: Request) -> Reply:
    told = request.json()
    with request.hub.store.lock:
        repo = request.repo(write=True)
        if told.get("gated", False) not in ("auto", "manual", False):
            raise Refused(400, '"gated" must be one of "auto", "manual", false')
        repo.gated = told.get("gated", repo.gated)
        if "visibility" in told or "private" in told:
            repo.private = told.get("visibility") == "private" or bool(told.get("private"))
        repo.save()
    return Reply.json({"gated": repo.gated, "private": repo.private})


def auth_check(request: Request) -> Reply:
    request.content()
    if request.match.get("write"):
        request.repo(write=True)
    return Reply.json({})


# Refs


def refs(request: Request) -> Reply:
    repo = request.repo()

    def listed(known: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in known.items()]

    told: dict[str, Any] = {"branches": listed(repo.heads, "refs/heads/"), "tags": listed(repo.tags, "refs/tags/")}
    pulls = {"pullRequests": listed(repo.pulls, "")} if "include_prs" in request.query else {}
    return Reply.json(told | {"converts": []} | pulls)


def tag(request: Request) -> Reply:
    told = request.json()
    with request.hub.store.lock:
        repo = request.repo(write=True)
        _check_ref(told["tag"])
        if told["tag"] in repo.tags:
            raise Refused(409, "Tag reference exists already")
        repo.tags[told["tag"]] = request.revision(repo)
        repo.save()
    return Reply.json({}, 201)


def untag(request: Request) -> Reply:
    with request.hub.store.lock:
        repo = request.repo(write=True)
        if repo.tags.pop(request.match["revision"], None) is None:
            raise Refused(404, "Tag doesn't exist", "RevisionNotFound")
        repo.save()
    return Reply.json({})


def branch(request: Request) -> Reply:
    told, name = request.json(), request.match["revision"]
    with request.hub.store.lock:
        repo = request.repo(write=True)
        _check_ref(name)
        if name in repo.heads:
            raise Refused(409, f"Reference already exists: refs/heads/{name}")
        oid = repo.resolve(told.get("startingPoint") or "main")
        if oid is None:
            raise Refused(404, f"Invalid rev id: {told['startingPoint']}", "RevisionNotFound")
        repo.heads[name] = oid
        repo.save()
    return Reply.json({}, 201)


def unbranch(request: Request) -> Reply:
    name = request.match["revision"]
    with request.hub.store.lock:
        repo = request.repo(write=True)
        if name == "main":
            raise Refused(403, "Cannot delete the main branch")
        if repo.heads.pop(name, None) is None:
            raise Refused(404, "Branch doesn't exist", "RevisionNotFound")
        repo.save()
    return Reply.json({})


def _check_ref(name: str) -> None:
    """Git's own rules for names of refs."""
    if re.search(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|\.lock(/|$)|(^|/)\.|[/.]$|^/|^-|^$", name):
        raise Refused(400, f"Invalid reference name: {name!r}")


# Discussions: enough to see a pull request


def discussions(request: Request) -> Reply:
    repo = request.repo()
    type, status = (request.query.get(key, ["all"])[0] for key in ("type", "status"))
    kinds, open = {"pull_request": True, "discussion": False}, {"open": True, "closed": False}
    told = [
        _shown(repo, known)
        for known in repo.discussions
        if kinds.get(type, known["pull"]) == known["pull"]
        and open.get(status, known["status"] != "closed") == (known["status"] != "closed")
    ]
    return Reply.json({"discussions": told, "count": len(told), "start": 0})


def one_discussion(request: Request) -> Reply:
    repo = request.repo()
    found = [known for known in repo.discussions if str(known["num"]) == request.match["number"]]
    if not found:
        raise Refused(404, "Discussion not found", "EntryNotFound")
    return Reply.json(_shown(repo, found[0]) | {"events": [], "filesWithConflicts": [], "changes": {"base": "main"}})


def discuss(request: Request) -> Reply:
    user, told = request.known_user(), request.json()
    with request.hub.store.lock:
        repo = request.repo()
        number, pull = len(repo.discussions) + 1, bool(told.get("pullRequest"))
        repo.discussions.append(discussion(number, told["title"], user.name, pull, "draft" if pull else "open"))
        if pull:
            repo.pulls[f"refs/pr/{number}"] = repo.heads["main"]
        repo.save()
    return Reply.json({"num": number})


def _shown(repo: Repo, known: dict[str, Any]) -> dict[str, Any]:
    date = repo.commits[repo.heads["main"]].date
    told = {"num": known["num"], "title": known["title"], "status": known["status"], "createdAt": date}
    author, place = {"name": known["author"]}, {"name": repo.id, "type": repo.type}
    return told | {"author": author, "repo": place, "isPullRequest": known["pull"]}


# Collections


def new_collection(request: Request) -> Reply:
    user, told = request.known_user(), request.json()
    namespace = told.get("namespace") or user.name
    if not user.may_write(namespace):
        raise Refused(403, f"You don't have the rights to create a collection under {namespace}")
    store = request.hub.store
    with store.lock:
        known = store.collections()
        for slug, collection in known.items():
            if (collection["owner"]["name"], collection["title"]) == (namespace, told["title"]):
                raise Refused(409, "This collection already exists", slug=slug)
        words = re.sub(r"[^a-z0-9]+", "-", told["title"].lower()).strip("-")
        slug = f"{namespace}/{words}-{uuid.uuid4().hex[:24]}"
        known[slug] = {
            "slug": slug,
            "title": told["title"],
            "description": told.get("description"),
            "owner": {"name": namespace, "type": "user" if namespace == user.name else "org"},
            "items": [],
            "lastUpdated": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
            "position": 0,
            "private": bool(told.get("private")),
            "theme": "green",
            "upvotes": 0,
        }
        store.save_collections(known)
    return Reply.json(known[slug])


def collection(request: Request) -> Reply:
    return Reply.json(_collection(request, request.hub.store.collections()))


def collections(request: Request) -> Reply:
    """A listing has no positions, and only the first four items of each."""
    user = request.user()
    owners = request.query.get("owner", [])
    found = []
    for known in request.hub.store.collections().values():
        owner = known["owner"]["name"]
        if (not owners or owner in owners) and (not known["private"] or (user and user.belongs_to(owner))):
            listed = {key: value for key, value in known.items() if key != "position"}
            found.append(listed | {"items": known["items"][:4]})
    return Reply.json(found)


def change_collection(request: Request) -> Reply:
    told, user, store = request.json(), request.known_user(), request.hub.store
    with store.lock:
        known = store.collections()
        collection = _collection(request, known)
        if not user.may_write(collection["owner"]["name"]):
            raise Refused(403, "You don't have write access to this collection")
        collection |= {
            key: told[key] for key in ("title", "description", "private", "theme", "position") if key in told
        }
        store.save_collections(known)
    return Reply.json({"success": True, "data": collection})


def add_item(request: Request) -> Reply:
    told = request.json()
    store, user = request.hub.store, request.known_user()
    with store.lock:
        known = store.collections()
        collection = _collection(request, known)
        if not user.may_write(collection["owner"]["name"]):
            raise Refused(403, "You don't have write access to this collection")
        item = told["item"]
        if item["type"] in ("model", "dataset") and store.load(item["type"], item["id"]) is None:
            raise Refused(404, f"{item['type']} {item['id']} does not exist", "RepoNotFound")
        if any((old["id"], old["type"]) == (item["id"], item["type"]) for old in collection["items"]):
            raise Refused(409, "This item is already in the collection")
        note = {"note": {"text": told["note"]}} if told.get("note") else {}
        collection["items"].append({"_id": uuid.uuid4().hex[:24], **item, "position": len(collection["items"]), **note})
        store.save_collections(known)
    return Reply.json(collection)


def _collection(request: Request, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    user, found = request.user(), known.get(request.match["slug"])
    if found is None or (found["private"] and not (user and user.belongs_to(found["owner"]["name"]))):
        raise Refused(404, "Collection not found")
    return found
