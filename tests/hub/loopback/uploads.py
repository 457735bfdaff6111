"""The way of files into a repository: preupload, LFS batch, PUT (whole or in parts), verify, and the commit."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from loopback.cards import problems
from loopback.messages import Refused, Reply, Request
from loopback.store import REGULAR_LIMIT, File, Repo, write_whole

LARGEST = 50 * 10**9


def preupload(request: Request) -> Reply:
    """Which files go to large-file storage, and what is at their paths now."""
    repo = request.repo(write="create_pr" not in request.query)
    oid = request.revision(repo)
    present, told, asked = repo.files(oid), [], request.json()
    own = repo.read(".gitignore", oid).decode() if ".gitignore" in present else ""
    ignored = asked.get("gitIgnore", own).split()
    for file in asked["files"]:
        large = repo.is_large(file["path"], file["size"], base64.b64decode(file["sample"]), oid)
        old = present.get(file["path"])
        mode = "lfs" if large else "regular"
        drop = any(fnmatch(file["path"], pattern) for pattern in ignored)
        same = (old.sha256 if large else None if old.sha256 else old.oid) if old else None
        told.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": drop, "oid": same})
    return Reply.json({"files": told})


def batch(request: Request) -> Reply:
    """Where each object is to be put; objects that the repository has need nothing."""
    repo = request.repo()
    if request.known_user().role == "read":
        raise Refused(403, f"You don't have write access to {repo.id}")
    asked = request.json()
    if asked.get("operation") != "upload" or asked.get("hash_algo", "sha256") != "sha256":
        raise Refused(400, "only uploads with sha256 are known")
    split = "multipart" in asked.get("transfers", []) and request.hub.part_size
    objects = [_object(request, repo, known["oid"], known["size"], int(split or 0)) for known in asked["objects"]]
    transfer = "multipart" if split else "basic"
    reply = Reply.json({"transfer": transfer, "objects": objects})
    reply.headers["Content-Type"] = "application/vnd.git-lfs+json"
    return reply


def _object(request: Request, repo: Repo, oid: str, size: int, part_size: int) -> dict[str, Any]:
    told: dict[str, Any] = {"oid": oid, "size": size}
    if not re.fullmatch(r"[0-9a-f]{64}", oid):
        return told | {"error": {"code": 422, "message": "oid is not a sha256"}}
    if size > LARGEST:
        return told | {"error": {"code": 422, "message": "the file is larger than 50 GB"}}
    if (repo.folder / "lfs" / oid).is_file():
        return told
    hub, place = request.hub, f"{repo.type}s/{repo.id}/{oid}"
    upload: dict[str, Any] = {"href": hub.signed(f"{hub.blobs_url}/put/{place}")}
    if part_size and size > part_size:
        upload_id = uuid.uuid4().hex
        parts = {
            f"{n:05d}": hub.signed(f"{hub.blobs_url}/part/{place}/{upload_id}/{n}")
            for n in range(1, -(-size // part_size) + 1)
        }
        complete = hub.signed(f"{hub.url}/complete/{place}/{upload_id}/{len(parts)}")
        upload = {"href": complete, "header": {"chunk_size": str(part_size), **parts}}
    return told | {"actions": {"upload": upload, "verify": {"href": f"{hub.url}/verify/{place}"}}}


def put(request: Request) -> Reply:
    """A whole object. What breaks off stays in `incoming`; what has another sha256 than announced is refused."""
    folder = _upload_folder(request)
    path = folder / f"{request.match['oid']}.{uuid.uuid4().hex}"
    return _accept(path, _receive(request, path), request.match["oid"])


def part(request: Request) -> Reply:
    folder = _upload_folder(request) / request.match["upload"]
    folder.mkdir(exist_ok=True)
    arriving = folder / f"{request.match['part']}.{uuid.uuid4().hex}"
    digest = _receive(request, arriving)
    arriving.replace(folder / request.match["part"])
    return Reply(headers={"ETag": f'"{digest}"'})


def complete(request: Request) -> Reply:
    """Put the parts together. Every part must be there, in order, with the ETag that its upload was answered with.

    Asked again for what is complete, as a client does that got no reply, it says so again.
    """
    folder = _upload_folder(request) / request.match["upload"]
    if not folder.is_dir() and (folder.parents[1] / "lfs" / request.match["oid"]).is_file():
        return Reply(headers={"ETag": f'"{request.match["oid"]}"'})
    told = request.json()["parts"]
    if not folder.is_dir() or [known["partNumber"] for known in told] != list(
        range(1, int(request.match["parts"]) + 1)
    ):
        raise Refused(400, "not every part is named, in order")
    whole, digest = folder / "whole", hashlib.sha256()
    with whole.open("wb") as stream:
        for known in told:
            path = folder / str(known["partNumber"])
            content = path.read_bytes() if path.is_file() else b""
            if known["etag"].strip('"') != hashlib.sha256(content).hexdigest():
                raise Refused(400, f"part {known['partNumber']} is missing or has another ETag", "InvalidPart")
            digest.update(content)
            stream.write(content)
    reply = _accept(whole, digest.hexdigest(), request.match["oid"])
    shutil.rmtree(folder)
    return reply


def _upload_folder(request: Request) -> Path:
    """`incoming` of the repository that a signed address names."""
    request.hub.check_signature(request)
    folder = request.hub.store.place(request.type, request.match["id"]) / "incoming"
    if not folder.is_dir():
        raise Refused(404, "NoSuchBucket")
    return folder


def _receive(request: Request, path: Path) -> str:
    """Write the body to a file; returns its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as stream:
        for chunk in request.body():
            digest.update(chunk)
            stream.write(chunk)
    return digest.hexdigest()


def _accept(path: Path, digest: str, oid: str) -> Reply:
    if digest != oid:
        path.unlink()
        raise Refused(400, f"The sha256 is {digest}, announced was {oid}", "BadDigest")
    kept = path.parent
    while kept.name != "incoming":
        kept = kept.parent
    path.replace(kept.parent / "lfs" / oid)
    return Reply(headers={"ETag": f'"{digest}"'})


def verify(request: Request) -> Reply:
    repo, told = request.repo(), request.json()
    request.known_user()
    path = repo.folder / "lfs" / told["oid"]
    if told["oid"] != request.match["oid"] or not path.is_file() or path.stat().st_size != told["size"]:
        raise Refused(404, "The object was not uploaded, or has another size")
    return Reply.json({})


def commit(request: Request) -> Reply:
    """One commit from NDJSON lines: all of it, or nothing. Its parent must be the head, where one is asserted."""
    lines = list(_lines(request.read()))
    pull = "create_pr" in request.query
    user = request.known_user()
    with request.hub.store.lock:
        repo = request.repo(write=not pull)
        name = request.match["revision"]
        if user.role == "read":
            raise Refused(403, f"You don't have write access to {repo.id}")
        if name not in repo.heads and name not in repo.pulls:
            raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
        head = lines[0]["value"]
        parent = _parent(repo, name, str(head.get("parentCommit") or ""), pull)
        files = changed(repo, repo.files(parent), lines[1:])
        number = len(repo.discussions) + 1
        ref = f"refs/pr/{number}" if pull else name
        oid = repo.commit(ref, files, head["summary"], user.name, parent=parent, message=head.get("description", ""))
        if pull:
            repo.discussions.append(discussion(number, head["summary"], user.name, pull=True))
        repo.save()
    base = request.hub.page(repo)
    told = {"success": True, "commitOid": oid, "commitUrl": f"{base}/commit/{oid}", "hookOutput": ""}
    return Reply.json(told | ({"pullRequestUrl": f"{base}/discussions/{number}"} if pull else {}))


def _lines(body: bytes) -> Iterator[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
    except ValueError as error:
        raise Refused(400, f"Invalid NDJSON: {error}") from error
    if not lines or lines[0].get("key") != "header" or not lines[0]["value"].get("summary"):
        raise Refused(400, "The first line must be a header with a summary")
    yield from lines


def _parent(repo: Repo, name: str, asserted: str, pull: bool) -> str:
    """The commit to build on. A pull request may start from any commit, a branch only goes on from its head."""
    head = (repo.pulls if name in repo.pulls else repo.heads)[name]
    if not asserted:
        return head
    if not re.fullmatch(r"[0-9a-f]{7,40}", asserted):
        raise Refused(400, '"parentCommit" must be a commit id of 7 to 40 hexadecimal digits')
    found = repo.resolve(asserted)
    if found is None or (found != head and not pull):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    return found


def changed(repo: Repo, files: dict[str, File], lines: list[dict[str, Any]]) -> dict[str, File]:
    """The files after the operations of a commit.

    Raises:
        Refused: 400 or 404, one of them cannot be done.
    """
    for line in lines:
        key, told = line["key"], line["value"]
        path = told["path"]
        if any(piece in ("", ".", "..", ".git") for piece in path.rstrip("/").split("/")):
            raise Refused(400, f"Invalid path: {path}")
        if key == "file":
            files[path] = _regular(repo, path, told)
        elif key == "lfsFile":
            if not (repo.folder / "lfs" / told["oid"]).is_file():
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = repo.add_large(told["oid"])
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            gone = [name for name in files if name.startswith(f"{path.rstrip('/')}/")]
            if not gone:
                raise Refused(404, "A folder with this name doesn't exist", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise Refused(400, f"Unknown operation: {key}")
    return files


def _regular(repo: Repo, path: str, told: dict[str, Any]) -> File:
    try:
        content = base64.b64decode(told["content"], validate=True)
    except binascii.Error as error:
        raise Refused(400, f"{path} is not base64: {error}") from error
    if len(content) > REGULAR_LIMIT:
        raise Refused(400, f"Your push was rejected because {path} is larger than 10 MiB and not in LFS")
    if path == "README.md" and (found := problems(content.decode(errors="replace"), repo.type)[0]):
        raise Refused(400, f"Invalid metadata in README.md: {'; '.join(found)}")
    return repo.add_regular(content)


def place_directly(repo: Repo, files: dict[str, bytes | None], title: str, author: str) -> str:
    """A commit on main without HTTP; None deletes a file. Large ones are stored as the server would."""
    present = repo.files()
    for path, content in files.items():
        if content is None:
            del present[path]
        elif repo.is_large(path, len(content), content[:512], "main"):
            sha256 = hashlib.sha256(content).hexdigest()
            write_whole(repo.folder / "lfs" / sha256, content)
            present[path] = repo.add_large(sha256)
        else:
            present[path] = repo.add_regular(content)
    oid = repo.commit("main", present, title, author)
    repo.save()
    return oid


def discussion(number: int, title: str, author: str, pull: bool, status: str = "open") -> dict[str, Any]:
    return {"num": number, "title": title, "author": author, "pull": pull, "status": status}
