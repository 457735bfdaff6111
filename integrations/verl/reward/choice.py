"""Multiple choice: the letter, or the text of the right option.

The reference is a letter (`B`), several (`AC`), or a letter with its text (`B. 12 cm`). An answer names one option:
by its letter in any dress, by its text where the reference has it, or by both, which then must agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from integrations.verl.reward.clean import clean, without_lead, without_reason

_ONE = re.compile(r"[(\[{]?\s*([A-J])\s*[)\]}]?|[(\[]\s*([a-j])\s*[)\]]|([a-j])\)")
_MANY = re.compile(r"[A-H]{2,8}")
_WITH_TEXT = re.compile(r"(?:[(\[]\s*([A-J])\s*[)\]]\s*[.:)]?|([A-J])\s*[.):])\s*(\S.*)", re.DOTALL)
_LISTED = re.compile(r"[(\[{]?\s*[A-H](?![A-Za-z])(?:(?:[\s,;&/()\[\]]|\band\b|和|与|及)+[A-H](?![A-Za-z]))+[)\]}\s]*")
_ORDERED = re.compile(r"[A-H](?:\s*[→>-]\s*[A-H]){2,}")
_IN_ORDER = re.compile(r"[(\[]?[A-H](?:\s*(?:,|→|>|<|-|;|\bthen\b|\band\b)*\s*[A-H])+[)\]]?")
_WORD = re.compile(
    r"(?:(?:the\s+)?(?:(?:correct|right|final|best)\s+)*(?:options?|choices?|answers?|letters?|figures?|graphs?|pictures?|images?|diagrams?)\b\s*"
    r"(?:is\b|are\b)?\s*[:=]?"
    r"|both(?: (?:options|choices|statements))?(?=\s+[(]?[A-J]\b)"
    r"|(?:i )?(?:would |will )?(?:choose|pick|select|go with)\b\s*:?"
    r"|(?:本题|故|应|应该|我)*(?:选择?|选项)\s*(?:是|为)?\s*:?)\s*",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"(?:\s*(?:选项|项|(?:is|are)(?: both)? (?:the )?(?:correct|right|true|best)(?: (?:answer|option|choice|one)s?)?"
    r"|正确|是正确的|是对的))+",
    re.IGNORECASE,
)
_START = re.compile(
    r"[(\[]?\s*([A-J])\s*[)\]]?(?:\s*[.:),-]\s*|\s+(?=[(]?because|[(]?since|as\b|not\b)|\s*(?=因为|由于))(\S.*)",
    re.DOTALL,
)
_MARKED = re.compile(r"[(\[]?[A-J]\s*[.):]")
_SMALL = re.compile(r"[(\[]?([a-j])[)\].:]\s+\S")
_LETTER_LAST = re.compile(r"(.*\S)\s*\(([A-J])\)", re.DOTALL)
_SPACED = re.compile(r"([A-J])\s+(\S.*)", re.DOTALL)
_CONTRAST = re.compile(r"(?:and |but )?(?:not|rather than|instead of) (?:option |choice )?[(]?[A-J][)]?")
_ANOTHER = re.compile(
    r"\([A-J]\)|\b[A-J][.):](?:\s|$)|(?:\bor\b|\band\b|[,/&;]|或|和|maybe|perhaps|possibly"
    r"|option|choice|answer|(?i:figure|graph|picture|image|diagram))\s*"
    r"(?:is\s*)?[(\[]?[A-J]\b[)\]]?(?![ ]?[a-z'])|^[A-J]$",
)
_ALSO = re.compile(r"\b[A-J]\b\s+(?:is|are|also|could|may|might|can|too)\b|\bbut\b")
_FINALLY = re.compile(
    r".*\b(?i:i (?:choose|pick|select)|answer is|option is|choice is)\s*:?\s*[(]?([A-J])[)]?", re.DOTALL
)
_CLAIM = re.compile(r"\b(?:choose|pick|select|answer|option|choice)\b", re.IGNORECASE)
_BECAUSE = re.compile(r"[(]?(?:(?:because|since|as|so|which|it|its|by|that|given|for)\b|因为|由于)", re.IGNORECASE)
_CLAUSE = re.compile(
    r"(?:the|this|both|all|there)\b.*\b(?:is|are|was|were|has|have|gives?|shows?|means?|equals?|must|can|will)\b",
    re.IGNORECASE | re.DOTALL,
)
_DENIED = re.compile(
    r"(?:is|are|was)?\s*(?:not|wrong|incorrect|false|n't|no|never)\b|isn't|错|不对|不是", re.IGNORECASE
)


@dataclass(frozen=True)
class Choice:
    """The right option."""

    letters: frozenset[str]
    text: str
    """The option's text, empty where the reference does not tell it."""
    order: str = ""
    """The letters in the order they must have: that of a reference such as `A, C, B`, which is not the alphabet's."""


def read_reference(reference: str) -> Choice | None:
    """The option that a cleaned reference names; None when it names none."""
    if (match := _ONE.fullmatch(reference)) and match.group(1):
        return Choice(frozenset(match.group(1)), "")
    if _MANY.fullmatch(reference) and list(reference) == sorted(set(reference)):
        return Choice(frozenset(reference), "")
    if _LISTED.fullmatch(reference):
        letters = re.findall(r"[A-H]", reference)
        if len(set(letters)) < len(letters):
            return None
        return Choice(frozenset(letters), "", "" if letters == sorted(letters) else "".join(letters))
    if _ORDERED.fullmatch(reference):
        letters = re.findall(r"[A-H]", reference)
        return Choice(frozenset(letters), "", "".join(letters))
    if match := _WITH_TEXT.fullmatch(reference):
        return Choice(frozenset(match.group(1) or match.group(2)), clean(match.group(3)))
    return None


def decide(prediction: str, right: Choice, same: Callable[[str, str], bool]) -> tuple[bool, str]:
    """Whether a cleaned answer names the right option, and the rule that decided.

    Args:
        prediction: the answer.
        right: the reference.
        same: whether two texts are the same answer, for the options' texts.
    """
    text = _bare(prediction)
    if match := _SMALL.match(text):
        text = text[: match.end(1)].upper() + text[match.end(1) :]
    if right.order:
        given = "".join(re.findall("[A-H]", text))
        given = given[::-1] if "<" in text and ">" not in text else given
        return _IN_ORDER.fullmatch(text) is not None and given == right.order, "order"
    if len(right.letters) > 1:
        return right.letters in (_letters(text), _letters(text.upper())), "letters"
    if len(text) == 1 and text.upper() in "ABCDEFGHIJ":
        return text.upper() in right.letters, "letter"
    if match := _ONE.fullmatch(text):
        return (match.group(1) or match.group(2) or match.group(3)).upper() in right.letters, "letter"
    if (match := _START.fullmatch(text)) and (_MARKED.match(text) or not (right.text and same(text, right.text))):
        after_comma = text[: match.start(2)].rstrip()[-1] in ",-"
        return _with_rest(match.group(1), match.group(2), after_comma, right, same)
    if right.text and (match := _SPACED.fullmatch(text)) and same(clean(match.group(2).strip("()")), right.text):
        return match.group(1) in right.letters, "letter"
    if right.text:
        if (match := _LETTER_LAST.fullmatch(text)) and match[2] in right.letters:
            text = match[1]
        return same(text, right.text), "option_text"
    if (match := _FINALLY.fullmatch(text)) and len(_CLAIM.findall(text)) == 1 and not _DENIED.search(text):
        return match.group(1) in right.letters, "letter"
    return False, "two_answers" if _letters(text) else "no_option"


def _bare(text: str) -> str:
    for _ in range(3):
        shorter = without_lead(text)
        if match := _WORD.match(shorter):
            shorter = clean(shorter[match.end() :]) or shorter
        if shorter == text:
            break
        text = shorter
    if (end := _AFTER.search(text)) and end.end() == len(text):
        text = text[: end.start()]
    return clean(text)


def _with_rest(
    letter: str, rest: str, after_comma: bool, right: Choice, same: Callable[[str, str], bool]
) -> tuple[bool, str]:
    """A letter with more behind it: its option's text or a reason, but no second option and no other text."""
    if _CONTRAST.fullmatch(rest):
        return letter in right.letters, "letter"
    if _ANOTHER.search(rest) or _ALSO.search(rest):
        return False, "two_answers"
    if _DENIED.match(rest):
        return False, "denied"
    if letter not in right.letters:
        return False, "letter"
    if right.text and not _BECAUSE.match(rest) and not same(without_reason(rest), right.text):
        named = after_comma or right.text.casefold() in rest.casefold()
        return (True, "letter") if named and _CLAUSE.match(rest) else (False, "letter_and_other_text")
    return True, "letter"


def _letters(text: str) -> frozenset[str] | None:
    if _MANY.fullmatch(text) or _LISTED.fullmatch(text):
        return frozenset(re.findall(r"[A-H]", text))
    return None
