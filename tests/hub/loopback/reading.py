"""The way of files out of a repository: what a revision holds, and the files themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import yaml

from loopback.messages import Refused, Reply, Request
from loopback.store import File, Repo, folders_of


def info(request: Request) -> Reply:
    repo = request.repo()
    oid = request.revision(repo)
    commit, files = repo.commits[oid], repo.files(oid)
    card = _front_matter(repo, files)
    siblings = [
        {"rfilename": path, **(_blob(file) if "blobs" in request.query else {})} for path, file in files.items()
    ]
    told = {
        "_id": repo.id,
        "id": repo.id,
        "author": repo.id.split("/")[0],
        "sha": oid,
        "private": repo.private,
        "gated": repo.gated,
        "disabled": False,
        "tags": card.get("tags", []),
        "downloads": 0,
        "likes": 0,
        "lastModified": commit.date,
        "createdAt": repo.commits[repo.history()[-1]].date,
        "siblings": siblings,
        "cardData": card,
    }
    if repo.type == "model":
        told |= {key: card[key] for key in ("pipeline_tag", "library_name") if key in card} | {"modelId": repo.id}
    if "evalResults" in request.query.get("expand", []):
        told = {"_id": repo.id, "id": repo.id, "evalResults": _eval_results(repo, files)}
    return Reply.json(told)


def _blob(file: File) -> dict[str, Any]:
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)} if file.sha256 else None
    return {"size": file.size, "blobId": file.oid} | ({"lfs": lfs} if lfs else {})


def _pointer_size(file: File) -> int:
    return 124 + len(str(file.size)) + 1


def _front_matter(repo: Repo, files: dict[str, File]) -> dict[str, Any]:
    if "README.md" not in files or files["README.md"].sha256:
        return {}
    text = repo.path_of(files["README.md"]).read_text(errors="replace")
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    return (yaml.safe_load(match[1]) or {}) if match else {}


def _eval_results(repo: Repo, files: dict[str, File]) -> list[dict[str, Any]]:
    """Entries of `.eval_results/*.yaml`; a file that is none is told with its error."""
    found: list[dict[str, Any]] = []
    for path, file in files.items():
        if re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path):
            try:
                entries = yaml.safe_load(repo.path_of(file).read_text())
                found += [{"filename": path, "data": {"dataset": e["dataset"], **e}} for e in entries]
            except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
                found.append({"filename": path, "error": str(error)})
    return found


def tree(request: Request) -> Reply:
    repo = request.repo()
    files = repo.files(request.revision(repo))
    inside = (request.match.get("path") or "").strip("/")
    recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
    prefix = f"{inside}/" if inside else ""
    if inside and not any(path.startswith(prefix) for path in files):
        raise Refused(404, f"{inside} does not exist", "EntryNotFound")
    shown = [_folder(path) for path in folders_of(files)] + [_listed(path, file) for path, file in files.items()]
    shown = [one for one in shown if one["path"].startswith(prefix)]
    if not recursive:
        shown = [one for one in shown if "/" not in one["path"][len(prefix) :]]
    return Reply.json(sorted(shown, key=lambda one: one["path"]))


def paths(request: Request) -> Reply:
    repo = request.repo()
    files = repo.files(request.revision(repo))
    asked = parse_qs(request.read().decode()).get("paths", [])
    found = [_listed(path, files[path]) for path in asked if path in files]
    return Reply.json(found + [_folder(path) for path in folders_of(files) if path in asked])


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _listed(path: str, file: File) -> dict[str, Any]:
    lfs = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": _pointer_size(file)}} if file.sha256 else {}
    return {"type": "file", "path": path, "oid": file.oid, "size": file.size, **lfs}


def commits(request: Request) -> Reply:
    repo = request.repo()
    told = []
    for oid in repo.history(request.revision(repo)):
        one = repo.commits[oid]
        told.append(
            {"id": oid, "title": one.title, "message": one.message, "date": one.date, "authors": [{"user": one.author}]}
        )
    return Reply.json(told)


def resolve(request: Request) -> Reply:
    """A regular file itself; for a large one, the way to it on the other origin."""
    repo = request.content()
    oid = request.revision(repo)
    file = repo.files(oid).get(request.match["path"])
    headers = {"X-Repo-Commit": oid}
    if file is None:
        raise Refused(404, "Entry not found", "EntryNotFound")
    if file.sha256 is None:
        return _served(request, repo.path_of(file), headers | {"ETag": f'"{file.oid}"'})
    location = request.hub.signed(f"{request.hub.blobs_url}/blob/{repo.type}s/{repo.id}/{file.sha256}")
    linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"', "ETag": f'"{file.oid}"'}
    return Reply(302, headers=headers | linked | {"Location": location})


def blob(request: Request) -> Reply:
    request.hub.check_signature(request)
    path = request.hub.store.place(request.type, request.match["id"]) / "lfs" / request.match["oid"]
    if not path.is_file():
        raise Refused(404, "NoSuchKey")
    return _served(request, path, {"ETag": f'"{request.match["oid"]}"'})


def _served(request: Request, path: Path, headers: dict[str, str]) -> Reply:
    """The file, or the range of it that is asked for."""
    size = path.stat().st_size
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if match is None or not any(match.groups()):
        return Reply(200, path, headers)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Reply(416, b"", {"Content-Range": f"bytes */{size}"})
    return Reply(206, path, headers | {"Content-Range": f"bytes {start}-{end}/{size}"}, part=(start, end))
