"""What must not be read in a release: tokens and keys, folders of a machine, private hosts, e-mail addresses.

A text is searched as it stands and as a program would read it: escapes (`\\u0068f_`, up to three deep, `%68f_`),
base64, wide characters. Tokens are found by their fixed beginnings with a plain search, so that a tokenizer of
megabytes costs a fraction of a second; its vocabulary is searched for tokens only, because single words of it look
like paths and addresses. detect-secrets was considered: it takes a minute for such a tokenizer and has no rule for
tokens of the Hub.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

ROUNDS = 3
"""How deep escapes are undone: JSON inside JSON inside JSON."""

_ESCAPE = re.compile(
    r"\\(?:u\{?([0-9a-fA-F]{4})\}?|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-7]{3})|(\r?\n[ \t]*)|(.))", re.DOTALL
)
_PERCENT = re.compile(r"%([0-9a-fA-F]{2})")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}")


def _any(match: re.Match[str]) -> bool:
    return True


def _random(match: re.Match[str]) -> bool:
    """Whether the match looks drawn at random: digits and letters, and enough different ones."""
    value = match[match.lastindex or 0]
    return any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(set(value)) >= 8


@dataclass(frozen=True)
class Rule:
    """One kind of text that is looked for."""

    what: str
    """For people."""
    anchors: tuple[str, ...]
    """Where a match can begin; searched for literally."""
    pattern: re.Pattern[str]
    """Matched where an anchor stands."""
    not_after: str = r"[A-Za-z0-9]"
    """A character before the anchor that rules it out."""
    accept: Callable[[re.Match[str]], bool] = _any

    def lines(self, text: str) -> Iterator[int]:
        """Line numbers of the matches."""
        for anchor in self.anchors:
            at = text.find(anchor)
            while at >= 0:
                before = text[at - 1 : at]
                match = None if before and re.match(self.not_after, before) else self.pattern.match(text, at)
                if match and self.accept(match):
                    yield text.count("\n", 0, at) + 1
                at = text.find(anchor, at + len(anchor))


def _rule(what: str, anchors: str, pattern: str, **more: Any) -> Rule:
    return Rule(what, tuple(anchors.split(" ")), re.compile(pattern, re.ASCII), **more)


TOKENS = (
    _rule("a token of the Hugging Face Hub", "hf_ api_org_", r"(?:hf_|api_org_)([A-Za-z0-9]{30,})"),
    _rule("a key of OpenAI or Anthropic", "sk-", r"sk-([A-Za-z0-9_-]{20,})", accept=_random),
    _rule("a key of AWS", "AKIA ASIA", r"A[KS]IA[0-9A-Z]{16}(?![0-9A-Za-z])"),
    _rule("a token of GitHub", "ghp_ gho_ ghu_ ghs_ ghr_", r"gh[pousr]_[A-Za-z0-9]{36}"),
    _rule("a token of GitHub", "github_pat_", r"github_pat_[A-Za-z0-9_]{22,}"),
    _rule("a token of GitLab", "glpat-", r"glpat-[A-Za-z0-9_-]{20,}"),
    _rule("a token of Slack", "xoxa- xoxb- xoxe- xoxo- xoxp- xoxr- xoxs-", r"xox[abeoprs]-[A-Za-z0-9-]{10,}"),
    _rule("a web hook of Slack", "hooks.slack.com/", r"hooks\.slack\.com/services/T\w+/B\w+/\w{10,}"),
    _rule("a key of Google", "AIza", r"AIza[0-9A-Za-z_-]{35}"),
    _rule("a token of Google", "ya29. GOCSPX-", r"(?:ya29\.|GOCSPX-)[0-9A-Za-z_-]{20,}"),
    _rule("a key of Weights & Biases", "wandb_v1_", r"wandb_v1_[A-Za-z0-9_]{20,}"),
    _rule("a token of npm or PyPI", "npm_ pypi-", r"(?:npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{40,})"),
    _rule("a key of Stripe", "sk_live_ rk_live_", r"[sr]k_live_[A-Za-z0-9]{20,}"),
    _rule("a signed web token", "eyJ", r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    _rule("a private key", "-----BEGIN", r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY", not_after="x"),
)
"""Found anywhere, the vocabulary of a tokenizer included."""

_NAMED = (
    r"(?i)(?:api[_-]?key|apikey|secret|passw(?:or)?d|access[_-]?key|auth[_-]?token|access[_-]?token|credentials?)"
    r"[\"'\\]{0,4}\s{0,3}[:=]\s{0,3}[\"'\\]{0,4}([A-Za-z0-9_+/=.~!@#$%^&*-]{12,})"
)
SEARCHED = (
    ("a password in an address", re.compile(r"://[^/\s:@\"'<>{}$]{1,64}:([^/\s:@\"'<>{}$]{3,})@[\w.-]"), _any),
    ("a bearer token", re.compile(r"(?i)\b(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/-]{20,}=*)"), _random),
    ("a secret by its name", re.compile(_NAMED), _random),
    ("a key of Weights & Biases", re.compile(r"(?i)wandb[\w-]{0,12}key\W{1,6}([0-9a-f]{40})\b"), _any),
)
"""Found outside of vocabularies."""

_TOPS = (
    *("home", "root", "Users", "mnt", "scratch", "data", "tmp", "workspace", "work", "gpfs", "nfs", "lustre", "fsx"),
    *("raid", "ssd", "var/folders", "private", "opt/conda", "srv", "media", "export", "dev/shm", "proc", "content"),
    "kaggle",
)
_FOLDERS = " ".join(f"/{name}/" for name in _TOPS)
PATHS = (
    _rule("a folder of a machine", _FOLDERS, r"/[\w.-]+/[\w.-]+", not_after=r"[\w.~$}%*-]"),
    _rule("a folder of a machine", "Users\\ Settings\\", r"(?:Users|Settings)\\+[\w.-]+", not_after=r"[\w]"),
)

_PRIVATE = r"(?:10\.\d{1,3}|192\.168|172\.(?:1[6-9]|2\d|3[01])|169\.254|100\.(?:6[4-9]|[7-9]\d|1[01]\d|12[0-7]))"
_VERSION = re.compile(r"(?:==|nvidia|cu\d\d|version|driver)[\w.-]*[\"']?\s*[:=]*\s*[\"']?v?$", re.IGNORECASE)
_NAME = r"[a-z0-9][\w-]{0,62}(?:\.[\w-]{1,63}){0,8}"
HOSTS = (
    re.compile(rf"(?<![\d.]){_PRIVATE}\.\d{{1,3}}\.\d{{1,3}}(?![\d.]*\d)", re.ASCII),
    re.compile(rf"(?i)(?:://|@|(?<=[\s\"'=(])){_NAME}\.(?:internal|lan|corp|intranet|localdomain)\b"),
    re.compile(rf"(?i)(?:://|@){_NAME}\.local\b|\.svc\.cluster\.local\b"),
    re.compile(r"(?i)(?<![\w:])f(?:[cd][0-9a-f]{2}|e80):(?::[0-9a-f]{1,4}|[0-9a-f]{1,4}:){2,}[0-9a-f:]*"),
)
_MAIL = re.compile(r"[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b", re.ASCII)
_PASSWORD = re.compile(r"://[^/\s]{0,64}:$")
"""Before what looks like an address of mail and is a password with its host."""
_MAIL_OF_NOBODY = re.compile(r"(?i)^git@|^(?:no-?reply|user|you|name)@|@(?:[\w-]+\.)*example\.(?:com|org|net)$")


def spellings(text: str) -> Iterator[str]:
    """A text as it stands, and as programs that undo escapes, wide characters or base64 would read it."""
    yield text
    if "\0" in text:
        text = text.replace("\0", "")
        yield text
    for _ in range(ROUNDS):
        if "\\" not in text:
            break
        text = _ESCAPE.sub(_unescaped, text)
        yield text
    if "%" in text:
        plain = _PERCENT.sub(lambda match: chr(int(match[1], 16)), text)
        if plain != text:
            yield plain
    decoded = "\n".join(_decoded(text))
    if decoded:
        yield decoded


def _unescaped(match: re.Match[str]) -> str:
    four, eight, two, octal, folded, other = match.groups()
    if folded is not None:
        return ""
    number = four or eight or two
    if number or octal:
        code = int(number, 16) if number else int(octal, 8)
        return chr(code) if code < 0x110000 else ""
    # Line ends stay where they are, so that line numbers hold.
    return " " if other in "nrtbf" else str(other)


def _decoded(text: str) -> Iterator[str]:
    for match in _BASE64.finditer(text):
        run = match[0].replace("-", "+").replace("_", "/")
        try:
            plain = base64.b64decode(run[: len(run) - len(run) % 4])
        except (ValueError, binascii.Error):
            continue
        if plain.isascii():
            yield plain.decode("ascii")


def token_lines(text: str) -> Iterator[tuple[str, int]]:
    """Kinds of tokens in a text and their lines; for any text, vocabularies included."""
    for rule in TOKENS:
        for line in rule.lines(text):
            yield rule.what, line


def secret_lines(text: str) -> Iterator[tuple[str, int]]:
    """Kinds of secrets that show by their surroundings, and their lines."""
    for what, pattern, accept in SEARCHED:
        for match in pattern.finditer(text):
            if accept(match):
                yield what, text.count("\n", 0, match.start()) + 1


def path_lines(text: str) -> Iterator[tuple[str, int]]:
    """Folders of a machine and their lines."""
    for rule in PATHS:
        for line in rule.lines(text):
            yield rule.what, line


def host_lines(text: str) -> Iterator[tuple[str, int]]:
    """Private hosts and addresses and their lines. The version of a package may look like an address."""
    for pattern in HOSTS:
        for match in pattern.finditer(text):
            if not _VERSION.search(text[max(0, match.start() - 60) : match.start()]):
                yield "a private host or address", text.count("\n", 0, match.start()) + 1


def mail_lines(text: str) -> Iterator[tuple[str, int]]:
    """E-mail addresses and their lines."""
    at = text.find("@")
    while at >= 0:
        start = max(0, at - 65)
        for match in _MAIL.finditer(text, start, at + 260):
            before = text[max(0, match.start() - 80) : match.start()]
            of_nobody = _MAIL_OF_NOBODY.search(match[0]) or _PASSWORD.search(before)
            if match.start() < at < match.end() and not of_nobody:
                yield "an e-mail address", text.count("\n", 0, at) + 1
        at = text.find("@", at + 1)
