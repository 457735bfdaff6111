"""Yes and no, true and false, in English and Chinese."""

from __future__ import annotations

import re

_YES_WORDS = "yes y t yeah yep true correct right 是 是的 对 对的 正确 真 有 可以 能 会 ✓ ✔ √"
_NO_WORDS = (
    "no n f nope false incorrect wrong untrue 否 不 不是 不是的 不对 错 错误 错的 不正确 假 没有 不可以 不能 不会 ✗ ✘ *"
)
"""The star is how clean.py writes ×."""
_REFERENCE_WORDS = "yes no true false 是 否 是的 不是 对 错 正确 错误 不对"
_YES, _NO = frozenset(_YES_WORDS.split()), frozenset(_NO_WORDS.split())
_REFERENCES = frozenset(_REFERENCE_WORDS.split())
_ENGLISH = re.compile(r"(yes|yeah|yep|true|correct|no|nope|false|incorrect)\b(.*)", re.IGNORECASE | re.DOTALL)
_CHINESE = re.compile(r"(不是|不对|不正确|没有|否|不|错误|错|是的|正确|是|对)(?:,|\.|;|$)(.*)", re.DOTALL)
_CONTRADICTS = {
    True: re.compile(r"(?:\b(?:no|false|incorrect)\b(?!\s+\w)|否|不是(?:$|\.))", re.IGNORECASE),
    False: re.compile(r"(?:\b(?:yes|true|correct)\b(?!\s+\w)|(?<!不)是的|(?:^|,)是(?:$|\.))", re.IGNORECASE),
}
_COPULA = re.compile(
    r"^(?:it|that|this|which)(?:'s| is) |^(?:(?:该|此|这个)?说法是?|这?是)(?=[正错])"
    r"|^(?:certainly|indeed|of course|absolutely|definitely),? (?=yes|no)|(?<=[确误])的$"
)
_NOT_TRUE = re.compile(r"(?:is |it isn't |isn't )?not? ?(?:true|correct|right|the case)")
_NO_OTHER = re.compile(
    r"no (?:one|body|idea|answers?|clue|info\w*|doubt|problem|matter|longer|more|less|opinion|conclusion)\b",
    re.IGNORECASE,
)
"""`no idea`, `no one knows`: not a no."""
_ABOUT_ANOTHER = re.compile(
    r"(?:correct|true|incorrect|false) (?:options?|answers?|choices?|value|result)\b", re.IGNORECASE
)
_OF_THE_WORD = re.compile(r"[\"']?\s*(?:is|was|would be|seems) (?:wrong|incorrect|false|not)\b", re.IGNORECASE)
_JOINED = re.compile(r"\s*(?:/|\||or\b|and\b|but\b|&|\?|\bmaybe\b|if\b|unless\b|only\b)", re.IGNORECASE)


def read_reference(reference: str) -> bool | None:
    """True for yes, False for no, None for any other reference."""
    word = reference.casefold()
    return word in _YES if word in _REFERENCES else None


def read(answer: str) -> bool | None:
    """What a cleaned answer says; None when it is neither a clear yes nor a clear no."""
    word = _COPULA.sub("", answer.casefold())
    if _NOT_TRUE.fullmatch(word):
        return False
    if word in _YES or word in _NO:
        return word in _YES
    match = _ENGLISH.fullmatch(answer) or _CHINESE.fullmatch(answer)
    if match is None:
        return None
    said, rest = match.group(1).casefold() in _YES, match.group(2)
    if _ABOUT_ANOTHER.match(match.group(0)) or _NO_OTHER.match(match.group(0)) or _OF_THE_WORD.match(rest):
        return None
    if _JOINED.match(rest) or _CONTRADICTS[said].search(rest):
        return None
    return said if not rest or rest[0] in " ,.;:(-" or not rest[0].isascii() or match.re is _CHINESE else None
