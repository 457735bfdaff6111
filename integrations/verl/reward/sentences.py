"""What stands in a sentence: `The clock shows 7:15` says 7:15, `7 people are standing` 7 people.

    variants("So the answer is 5, because ...")  ->  ("So the answer is 5, because ...", "5, because ...", "5")

Nothing is taken out of a sentence that doubts, denies or compares.
"""

from __future__ import annotations

import re
from functools import lru_cache

from integrations.verl.reward import equations
from integrations.verl.reward.clean import clean, without_lead, without_reason

DEEPEST = 3
"""Sentences within sentences."""

_VERBS = (
    r"is|are|equals?|was|were|be|measures|has length|costs?|has|have|had|gets?|got|needs?|contains?|weighs|takes|took"
    r"|shows?|showed|displays?|reads?|indicates?|gives?|yields?|forms?|represents?|depicts?|becomes?|remains?|see|counts?"
    r"|counted|obtains?|finds?|found|find that|means|includes?|paid|pays|spent|spends|earned|earns|saved|saves"
    r"|(?:points|faces|moves|turns|heads)(?=\s(?:to|due|towards?|up|down|left|right|north|south|east|west))"
    r"|(?:leaves|arrives|starts|begins|ends|opens|closes|departs|peaks|happens) (?:in|on|at)"
    r"|(?:comes|amounts|adds up|sums(?: up)?|evaluates|simplifies|reduces"
    r"|belongs|corresponds) to|(?:lies|occurs|falls) (?:in|on|at)|\w{2,}(?:ed|gan) (?:in|on|at)"
)
_STATEMENT = re.compile(
    rf"([^0-9=<>≤≥±]{{1,80}}?)(?:\s(?:{_VERBS})\s(?:equal to\s|approximately\s|about\s)?|:\s*)\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_CHINESE_STATEMENT = re.compile(r"([^0-9=<>≤≥±]{1,20}?)(?:是|为|等于|:|有|共)\s*(.+)", re.DOTALL)
_PLACED = re.compile(
    r"(?:(?:\w{2,}(?:ed|en|wn|ght|ade|ilt|ound|est)|congruent|similar) )?"
    r"(?:[Ii]n|[Oo]n|[Aa]t|[Bb]y(?=\s[A-Z]))\s+(?:the (?:month|year|city|country) of )?"
    r"(\S.*)",
    re.DOTALL,
)
_TRAILED = re.compile(
    r"(.{1,60}?)\s+(?:is|are|was|were|can be)\s+(?:\w+ing|visible|shown|present|left|needed|required|seen|counted"
    r"|displayed|depicted|drawn|used|(?:in|on) the \w+)\b[^0-9]{0,60}",
    re.DOTALL,
)
_SUPERLATIVE = re.compile(
    r"(.{2,40}?)\s+(?:has|have|had|is|was|are|were|shows?|showed|recorded|received)\s+the\s+(?:\w+\s+)?"
    r"(?:\w+est|most|least)\b[^0-9]{0,60}",
    re.DOTALL,
)
_LETTER = re.compile(r"(?:(?:option|choice|answer|statement) )?[(]?[A-Ja-j][)]?", re.IGNORECASE)
_JUDGED = re.compile(r"(?:correct|right|true|wrong|incorrect|false)\b", re.IGNORECASE)
_BEFORE = re.compile(r"^(?:(?:is|are|was|were)\s+|一[个种条只](?=\w))")
_MORE = re.compile(r"\b(?:and|but|while|whereas|after|than|then|besides|second)\b", re.IGNORECASE)
"""What makes a sentence speak of a second thing."""
_DOUBT = re.compile(
    r"\b(?:not|isn't|n't|never|if|or|maybe|perhaps|wrong|neither|except|ignore|instructions?|opposite|instead|cannot"
    r"|can't|yes|no|deny|denies|doubt|disagree|reject|refuse|false|incorrect|unlikely|unless|options?)\b|不|或|非|若",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def variants(answer: str) -> tuple[str, ...]:
    """A cleaned answer itself, and without what people write around an answer."""
    found = [answer]
    lead = without_lead(answer)
    found += [lead, without_reason(lead)]
    for _ in range(DEEPEST):
        inner = _stated(found[-1])
        if inner is None:
            break
        found += [inner, without_reason(without_lead(inner))]
    if match := _PLACED.fullmatch(found[-1]):
        found.append(clean(match[1]))
    for pattern in (_TRAILED, _SUPERLATIVE):
        if (match := pattern.fullmatch(found[2])) and not _DOUBT.search(found[2]) and not _MORE.search(found[2]):
            found.append(clean(match[1]))
    if "≈" in answer:
        found += equations.sides_of_rounding(found[-1])
    return tuple(dict.fromkeys(text for text in found if text))


def _stated(text: str) -> str | None:
    match = _STATEMENT.fullmatch(text)
    if match is None and not text.isascii():
        match = _CHINESE_STATEMENT.fullmatch(text)
        match = None if match is None or match[1].isascii() else match
    if match is not None and _LETTER.fullmatch(match[1]) and _JUDGED.match(match[2]):  # "B is correct" says B, not yes
        return None
    return None if match is None or _DOUBT.search(match[1]) else clean(_BEFORE.sub("", match[2]))
