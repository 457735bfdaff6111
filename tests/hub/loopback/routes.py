"""Which call is which: method, address, the kind that faults and recorded calls are named by, and its handler."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from loopback import reading, repos, uploads
from loopback.messages import Reply, Request

_API = r"/api/(?P<type>models|datasets)/(?P<id>[^/]+/[^/]+)"
_GIT = r"/(?P<type>datasets/)?(?P<id>[^/]+/[^/]+)"
_OBJECT = r"/(?P<type>models|datasets)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"
_REVISION = r"/(?P<revision>[^/]+)"
_SLUG = r"/api/collections/(?P<slug>[^/]+/[^/]+)"


@dataclass(frozen=True)
class Route:
    kind: str
    method: str
    address: re.Pattern[str]
    handler: Callable[[Request], Reply]
    blobs: bool = False
    """At the origin of the blobs, instead of the API's."""


def _route(kind: str, method: str, address: str, handler: Callable[[Request], Reply], blobs: bool = False) -> Route:
    return Route(kind, method, re.compile(address), handler, blobs)


ROUTES = (
    _route("whoami", "GET", "/api/whoami-v2", repos.whoami),
    _route("validate", "POST", "/api/validate-yaml", repos.validate),
    _route("agents", "GET", "/api/agent-harnesses", repos.agents),
    _route("create", "POST", "/api/repos/create", repos.create),
    _route("delete", "DELETE", "/api/repos/delete", repos.delete),
    _route("info", "GET", _API, reading.info),
    _route("info", "GET", f"{_API}/revision{_REVISION}", reading.info),
    _route("settings", "PUT", f"{_API}/settings", repos.settings),
    _route("auth", "GET", f"{_API}/auth-check(?P<write>/write)?", repos.auth_check),
    _route("preupload", "POST", f"{_API}/preupload{_REVISION}", uploads.preupload),
    _route("batch", "POST", rf"{_GIT}\.git/info/lfs/objects/batch", uploads.batch),
    _route("put", "PUT", f"/put{_OBJECT}", uploads.put, blobs=True),
    _route("part", "PUT", rf"/part{_OBJECT}/(?P<upload>[0-9a-f]{{32}})/(?P<part>\d+)", uploads.part, blobs=True),
    _route("complete", "POST", rf"/complete{_OBJECT}/(?P<upload>[0-9a-f]{{32}})/(?P<parts>\d+)", uploads.complete),
    _route("verify", "POST", f"/verify{_OBJECT}", uploads.verify),
    _route("commit", "POST", f"{_API}/commit{_REVISION}", uploads.commit),
    _route("tag", "POST", f"{_API}/tag{_REVISION}", repos.tag),
    _route("untag", "DELETE", f"{_API}/tag{_REVISION}", repos.untag),
    _route("branch", "POST", f"{_API}/branch{_REVISION}", repos.branch),
    _route("unbranch", "DELETE", f"{_API}/branch{_REVISION}", repos.unbranch),
    _route("refs", "GET", f"{_API}/refs", repos.refs),
    _route("tree", "GET", f"{_API}/tree{_REVISION}(?P<path>/.*)?", reading.tree),
    _route("paths", "POST", f"{_API}/paths-info{_REVISION}", reading.paths),
    _route("commits", "GET", f"{_API}/commits{_REVISION}", reading.commits),
    _route("resolve", "GET", f"{_GIT}/resolve{_REVISION}/(?P<path>.+)", reading.resolve),
    _route("blob", "GET", f"/blob{_OBJECT}", reading.blob, blobs=True),
    _route("discussions", "GET", f"{_API}/discussions", repos.discussions),
    _route("discussion", "GET", rf"{_API}/discussions/(?P<number>\d+)", repos.one_discussion),
    _route("discuss", "POST", f"{_API}/discussions", repos.discuss),
    _route("collections", "GET", "/api/collections", repos.collections),
    _route("new_collection", "POST", "/api/collections", repos.new_collection),
    _route("collection", "GET", _SLUG, repos.collection),
    _route("change_collection", "PATCH", _SLUG, repos.change_collection),
    _route("item", "POST", f"{_SLUG}/items", repos.add_item),
)
KINDS = frozenset(route.kind for route in ROUTES)


def find(method: str, path: str, blobs: bool) -> tuple[Route, re.Match[str]] | None:
    """The route of a call. HEAD is GET without the body."""
    method = "GET" if method == "HEAD" else method
    for route in ROUTES:
        if route.method == method and route.blobs == blobs and (match := route.address.fullmatch(path)):
            return route, match
    return None
