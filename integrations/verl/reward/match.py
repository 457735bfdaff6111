"""Decides whether an answer is the reference, by trying every kind of answer that the reference can be read as.

    decide("100 cm", "1 m")  ->  Verdict(correct=True, rule="unit", type="quantity")

Each kind is one function of KINDS: it returns None when the reference is not of its kind, and otherwise whether the
answer matches and which rule said so. The principles are in verdicts.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from integrations.verl.reward import algebra, choice, clock, parts, quantity, regions, yes_no
from integrations.verl.reward.clean import LONGEST, clean, plain, symbols_alone, without_lead, without_reason
from integrations.verl.reward.expression import Node, exact, negative, read, symbols
from integrations.verl.reward.verdict import Undecided, Verdict

Said = tuple[bool, str]

_STATEMENT = re.compile(
    r"([^0-9=<>≤≥±]{1,80}?)(?:\s(?:is|are|equals?|was|were|be|measures|has length|costs?|has|have|had|gets?|got|needs?"
    r"|contains|weighs|takes|took)\s(?:equal to\s|approximately\s|about\s)?|:\s*)\s*(\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_CHINESE_STATEMENT = re.compile(r"([^0-9=<>≤≥±]{1,20}?)(?:是|为|等于|:|有|共)\s*(.+)", re.DOTALL)
_DOUBT = re.compile(
    r"\b(?:not|isn't|n't|never|if|or|maybe|perhaps|wrong|neither|except|ignore|instructions?)\b|不|或|非|若",
    re.IGNORECASE,
)
_SPECIAL = (
    ("greater", re.compile(r">|(?:is )?(?:greater|larger|bigger|more) than|大于", re.IGNORECASE)),
    ("less", re.compile(r"<|(?:is )?(?:less|smaller|fewer) than|小于", re.IGNORECASE)),
    ("equal", re.compile(r"=|(?:is |are )?equal(?: to)?|the same|等于|相等", re.IGNORECASE)),
    ("none", re.compile(r"∅|\{ ?\}|φ|none|(?:the )?empty(?: set)?|null set|(?:the )?solution set is empty"
                        r"|no real roots?"
                        r"|no (?:real |possible |valid )?solutions?(?: exists?)?|无解|空集|没有解|方程无解|无实数解"
                        r"|no (?:such )?(?:value|number|answer)s?(?: exists?)?", re.IGNORECASE)),
    ("undefined", re.compile(r"undefined|not defined|does not exist|doesn't exist|d\.?n\.?e|不存在|无意义|未定义"
                             r"|无定义", re.IGNORECASE)),
    ("unknown", re.compile(r"can(?:not|'t| not) be determined|not enough information|无法确定|不能确定",
                           re.IGNORECASE)),
)  # fmt: skip
_MEMBER = re.compile(r"[a-zA-Z]\s*∈\s*(\{.*\})|\{\s*[a-zA-Z]\s*[|:]\s*(.*=.*)\}", re.DOTALL)
_TWICE = re.compile(r"([^()]+?)\s*\((?:or |i\.e\.,? ?|= ?|that is,? |which is |also )?([^()]+)\)")
_SIMPLE = re.compile(r"[+-]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_NUMBERS = re.compile(r"[+-]?[0-9.]+(?: [+-]?[0-9.]+)+")
_HYPHEN = re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])")
_LETTER = re.compile(r"[^\W\d_]")
_MATHS = re.compile(r"[0-9+=<>^\\/%°]")
MOST_PARTS = 64


def decide(prediction: str, reference: str | Sequence[str]) -> Verdict:
    """The verdict on an answer.

    Args:
        prediction: what stands in `<answer>`.
        reference: the reference answer, or several that are each right. A text that is a JSON list of texts counts as
            several; so does one whose accepted answers are separated by `||`.
    """
    try:
        return _decide(prediction, tuple(accepted(reference)))
    except Undecided as problem:
        return Verdict(False, "undecided", "error", str(problem))
    except Exception as problem:  # a defect here must not lose a response without a word, nor end the training at once
        return Verdict(False, "unreadable", "error", f"{type(problem).__name__}: {problem}")


def accepted(reference: str | Sequence[str]) -> list[str]:
    """The accepted answers of a reference, at least one."""
    if not isinstance(reference, str):
        return [str(answer) for answer in reference]
    text = reference.strip()
    if text.startswith('["') and text.endswith('"]'):
        try:
            return [str(answer) for answer in json.loads(text)]
        except ValueError:
            return [reference]
    return (
        [part.strip() for part in reference.split("||")] if "||" in reference and "|" not in text[:1] else [reference]
    )


def _decide(prediction: str, references: tuple[str, ...]) -> Verdict:
    if len(prediction) > LONGEST:
        return Verdict(False, "too_long", "any")
    answer = clean(prediction)
    if not answer:
        return Verdict(False, "empty", "any")
    verdicts = []
    for reference in references:
        verdicts.append(_against(answer, clean(reference)))
        if verdicts[-1].correct:
            break
    return verdicts[-1]


def _against(answer: str, reference: str) -> Verdict:
    if _SIMPLE.fullmatch(answer) and _SIMPLE.fullmatch(reference):
        return Verdict(quantity.same(*_numbers(reference, answer))[0], "number", "quantity")
    if answer == reference and reference:
        return Verdict(True, "same_text", kind_of(reference))
    last: Verdict | None = None
    for variant in _variants(answer):
        verdict = _one(variant, reference, 0)
        if verdict.correct:
            return verdict
        if _said_twice(variant, reference):
            return Verdict(True, "said_twice", verdict.type)
        last = last or verdict
    assert last is not None
    if last.rule != "two_answers" and parts.split(answer) and not parts.split(reference):
        return Verdict(False, "two_answers", last.type)
    return last


def _said_twice(answer: str, reference: str) -> bool:
    """`1/2 (0.5)`, `0.5 or 1/2`: the same answer in two forms, each of which is right."""
    match = _TWICE.fullmatch(answer)
    pieces = parts.split(answer) if match is None else None
    items = match.groups() if match else pieces.items if pieces is not None and pieces.kind == "either" else ()
    if not 1 < len(items) < 4 or choice.read_reference(reference) or yes_no.read_reference(reference) is not None:
        return False
    return all(_one(clean(item), reference, 1).correct for item in items)


def _numbers(reference: str, answer: str) -> tuple[quantity.Quantity, quantity.Quantity]:
    return quantity.readings(reference)[0], quantity.readings(answer)[0]


@lru_cache(maxsize=4096)
def _variants(answer: str) -> tuple[str, ...]:
    """The answer itself, and without what people write around an answer."""
    found = [answer]
    lead = without_lead(answer)
    found += [lead, without_reason(lead)]
    for pattern in (_STATEMENT, _CHINESE_STATEMENT):
        match = pattern.fullmatch(found[2])
        if match and not _DOUBT.search(match[1]) and not (pattern is _CHINESE_STATEMENT and match[1].isascii()):
            found.append(clean(match[2]))
    return tuple(dict.fromkeys(text for text in found if text))


def same(answer: str, reference: str, depth: int = 0) -> bool:
    """Whether two cleaned texts are the same answer; for the parts of larger answers."""
    return answer == reference or _one(answer, reference, depth + 1).correct


def kind_of(reference: str) -> str:
    """The first kind that a cleaned reference can be read as."""
    return next((name for name, kind in KINDS.items() if kind("\0", reference, 1) is not None), "text")


def _one(answer: str, reference: str, depth: int) -> Verdict:
    if depth > 3:
        return Verdict(answer == reference, "same_text", "text")
    first: Verdict | None = None
    for name, kind in KINDS.items():
        said = kind(answer, reference, depth)
        if said is None:
            continue
        if said[0] or name in FINAL:
            return Verdict(said[0], said[1], name)
        first = first or Verdict(False, said[1], name)
    return first or Verdict(False, "text", "text")


def _choice(answer: str, reference: str, depth: int) -> Said | None:
    right = choice.read_reference(reference) if depth == 0 else None
    return None if right is None else choice.decide(answer, right, lambda a, b: same(a, b, depth))


def _yes_no(answer: str, reference: str, depth: int) -> Said | None:
    right = yes_no.read_reference(reference)
    return None if right is None else (yes_no.read(answer) is right, "yes_no")


def _special(answer: str, reference: str, depth: int) -> Said | None:
    for _, pattern in _SPECIAL:
        if pattern.fullmatch(reference):
            return pattern.fullmatch(answer) is not None or plain(answer) == plain(reference), "special"
    return None


def _date(answer: str, reference: str, depth: int) -> Said | None:
    if (day := clock.weekday(reference)) is not None:
        return clock.weekday(answer) == day, "weekday"
    date = clock.date(reference)
    return None if date is None else (clock.date(answer) == date, "date")


def _time(answer: str, reference: str, depth: int) -> Said | None:
    time = clock.read(reference)
    given = clock.read(answer) if time is not None else None
    return None if time is None else (given is not None and time.same(given), "time")


def _matrix(answer: str, reference: str, depth: int) -> Said | None:
    rows = parts.matrix(reference)
    if rows is None:
        return None
    given = parts.matrix(answer)
    if given is None and min(len(rows), max(map(len, rows))) == 1 and (vector := parts.split(answer)):
        given = [list(vector.items)] if len(rows) == 1 else [[item] for item in vector.items]
    if given is None or [len(row) for row in given] != [len(row) for row in rows]:
        return False, "matrix"
    pairs = ((a, b) for theirs, ours in zip(given, rows, strict=True) for a, b in zip(theirs, ours, strict=True))
    return all(same(a, b, depth) for a, b in pairs), "matrix"


def _region(answer: str, reference: str, depth: int) -> Said | None:
    region = regions.read_region(reference)
    given = regions.read_region(answer) if region is not None else None
    if region is None:
        return None
    return given is not None and regions.same(region, given, algebra.equal), "interval"


def _solutions(answer: str, reference: str, depth: int) -> Said | None:
    """A set, or all the values of one unknown: in any order, none missing, none more."""
    whole = parts.split(reference)
    if whole is not None and whole.kind == "set":
        right: tuple[str, ...] | None = tuple(one for item in whole.items for one in parts.both_signs(item))
    else:
        right = parts.solutions(reference)
    if right is None:
        return None
    if whole is not None and whole.kind == "either" and "=" not in reference and _wordy(right):
        return any(same(answer, one, depth) for one in right), "several"
    given = _values(answer, right)
    if given is None or max(len(given), len(right)) > MOST_PARTS or not given:
        return False, "set"
    return _covers(given, right, depth) and _covers(right, given, depth), "set"


def _wordy(items: tuple[str, ...]) -> bool:
    return all(not quantity.readings(item) for item in items)


def _values(answer: str, right: tuple[str, ...]) -> tuple[str, ...] | None:
    """What an answer gives as the values of a set."""
    if match := _MEMBER.fullmatch(answer):
        return _values(match[1] or match[2], right)
    found = parts.solutions(answer)
    if (
        found is None
        and (pieces := parts.split(answer)) is not None
        and pieces.kind in ("set", "list", "square", "either")
    ):
        found = pieces.items
    if found is None and (named := parts.name_and_values(answer)) and len(named[1]) == 1:
        return _values(named[1][0], right)
    if found is None and len(set(right)) == 1:
        return (answer,)
    return None if found is None else tuple(one for item in found for one in parts.both_signs(item))


def _covers(items: tuple[str, ...], by: tuple[str, ...], depth: int) -> bool:
    return all(any(same(item, other, depth) or same(other, item, depth) for other in by) for item in items)


def _assigned(answer: str, reference: str, depth: int) -> Said | None:
    """`x = 1, y = 2`: values by name, in any order; or the values alone in the order of the names."""
    right = _by_name(reference)
    if right is None:
        return None
    given = _by_name(answer)
    if given is None:
        pieces = parts.split(answer)
        if (
            pieces is None
            or pieces.kind == "set"
            or len(pieces.items) != len(right)
            or any("=" in p for p in pieces.items)
        ):
            return False, "assignment"
        given = dict(zip(right, pieces.items, strict=True))
    return given.keys() == right.keys() and all(same(given[name], right[name], depth) for name in right), "assignment"


def _by_name(text: str) -> dict[str, str] | None:
    pieces = parts.split(text)
    if pieces is None or pieces.kind == "either":
        return None
    named = [parts.name_and_values(item) for item in pieces.items[:MOST_PARTS]]
    if any(one is None or len(one[0]) != 1 or len(one[1]) != 1 for one in named):
        return None
    values = {parts.plain_name(one[0][0]): one[1][0] for one in named if one is not None}
    return values if len(values) == len(named) else None


def _sequence(answer: str, reference: str, depth: int) -> Said | None:
    """Tuples and lists: as many parts, in the same order."""
    right = parts.split(reference)
    if right is None or right.kind in ("set", "either") or len(right.items) > MOST_PARTS:
        return None
    given = parts.split(answer)
    if given is not None and (by_name := _by_name(answer)) is not None and _by_name(reference) is None:
        given = parts.Parts("list", tuple(by_name[name] for name in sorted(by_name)))
    if given is None and (named := parts.name_and_values(answer)) and len(named[1]) == 1 and named[0]:
        given = parts.split(named[1][0])
    if given is None and (rows := parts.matrix(answer)) and min(len(rows), max(map(len, rows))) == 1:
        given = parts.Parts("list", tuple(cell for row in rows for cell in row))
    if given is None and _NUMBERS.fullmatch(answer):
        given = parts.Parts("list", tuple(answer.split()))
    if given is not None and given.kind == "set" and right.kind == "list":
        given = parts.Parts("list", given.items)
    if given is None or given.kind in ("set", "either") or len(given.items) != len(right.items):
        return False, "parts"
    if {given.kind, right.kind} == {"tuple", "square"}:
        return False, "brackets"
    return all(same(a, b, depth) for a, b in zip(given.items, right.items, strict=True)), "parts"


def _ratio(answer: str, reference: str, depth: int) -> Said | None:
    terms = _ratio_terms(reference) if ":" in reference or "比" in reference else None
    if terms is None or clock.read(reference) is not None:
        return None
    given = _ratio_terms(answer)
    if given is None and len(terms) == 2:
        return any(algebra.equal(q.node, _quotient(*terms)) for q in quantity.readings(answer) if not q.unit), "ratio"
    if given is None or len(given) != len(terms):
        return False, "ratio"
    return all(
        algebra.equal(("mul", a, terms[0]), ("mul", b, given[0])) for a, b in zip(given, terms, strict=True)
    ), "ratio"


def _ratio_terms(text: str) -> list[Node] | None:
    terms = parts.ratio(text)
    nodes = [read(term) for term in terms] if terms else []
    return [node for node in nodes if node is not None] if nodes and None not in nodes else None


def _quotient(top: Node, bottom: Node) -> Node:
    return ("mul", top, ("pow", bottom, negative(("num", 1))))


def _range(answer: str, reference: str, depth: int) -> Said | None:
    ends = parts.bounds(reference)
    given = parts.bounds(answer) if ends is not None else None
    if ends is None or not all(quantity.readings(end) for end in ends):
        return None
    return given is not None and all(same(a, b, depth) for a, b in zip(given, ends, strict=True)), "range"


def _equation(answer: str, reference: str, depth: int) -> Said | None:
    """An equation of variables: the same line or curve, in whatever form it is written."""
    right = parts.name_and_values(reference)
    if right is None:
        return None
    names, sides = right
    ours = _residual(reference)
    solved = len(names) == 1 and len(sides) == 1 and not (ours and symbols(read(sides[0]) or ("num", 0)))
    if ours is None or solved:
        return None
    theirs = _residual(answer)
    if theirs is None:
        return False, "equation"
    return algebra.proportional(ours, theirs), "equation"


def _residual(text: str) -> Node | None:
    """Left side minus right side."""
    sides = [read(re.sub(r"^f\(x\)$", "y", side.strip())) for side in text.split("=")]
    if len(sides) != 2 or sides[0] is None or sides[1] is None:
        return None
    node: Node = ("add", sides[0], negative(sides[1]))
    return node if symbols(node) else None


def _named(answer: str, reference: str, depth: int) -> Said | None:
    """`x = 5`: the value, with the same name or none before it; or a calculation that is right and ends in it."""
    ours, theirs = parts.name_and_values(reference), parts.name_and_values(answer)
    if ours is None and theirs is None:
        return None
    if ours is not None and (value := _result(ours[1], depth)) is None:
        return None
    if theirs is not None and (given := _result(theirs[1], depth)) is None:
        return False, "calculation"
    if ours is not None and theirs is not None and ours[0] and theirs[0]:
        left, right = ({parts.plain_name(name).casefold() for name in names} for names in (ours[0], theirs[0]))
        if not left & right:
            return False, "name"
    wanted = reference if ours is None or value is None else value
    return same(answer if theirs is None or given is None else given, wanted, depth), "named_value"


def _result(sides: list[str], depth: int) -> str | None:
    """The last side of a calculation, when all the others have the same value."""
    last = clean(sides[-1])
    return last if all(_same_value(clean(side), last) for side in sides[:-1]) else None


def _same_value(left: str, right: str) -> bool:
    ours, theirs = quantity.readings(left), quantity.readings(right)
    return any(not symbols(a.node) and algebra.equal(a.node, b.node) for a in ours for b in theirs)


def _quantity(answer: str, reference: str, depth: int) -> Said | None:
    ours = quantity.readings(reference, declares=True)
    if not ours:
        return None
    said: Said = (False, "number")
    if reference.isalpha() and answer.isalpha() and reference.isascii():
        return None
    for right in ours:
        for given in quantity.readings(answer):
            said = quantity.same(right, given)
            if said[0]:
                rule = "number" if exact(right.node) is not None and said[1] == "number" else said[1]
                return True, rule if symbols(
                    right.node
                ) == set() and rule == "number" else "expression" if rule == "number" else rule
    if (ratio := _ratio_terms(answer)) is not None and len(ratio) == 2 and ":" in answer and clock.read(answer) is None:
        return any(algebra.equal(right.node, _quotient(*ratio)) for right in ours if right.unit is None), "ratio"
    return said


def _text(answer: str, reference: str, depth: int) -> Said | None:
    if symbols_alone(answer) == symbols_alone(reference):
        return True, "text"
    if _MATHS.search(reference) and quantity.readings(reference):
        return None
    if not _LETTER.search(reference):  # between digits a comma means something
        return answer.casefold() == reference.casefold(), "text"
    ours, theirs = plain(reference), plain(answer.strip("()"))
    if ours == theirs or _singular(ours) == _singular(theirs):
        return ours != "", "text"
    return plain(_HYPHEN.sub("", answer)) == plain(_HYPHEN.sub("", reference)) != "", "text"


def _singular(text: str) -> str:
    return text[:-1] if len(text) > 3 and text.endswith("s") and not text.endswith("ss") and text.isascii() else text


KINDS: dict[str, Callable[[str, str, int], Said | None]] = {
    "choice": _choice,
    "yes_no": _yes_no,
    "special": _special,
    "date": _date,
    "time": _time,
    "matrix": _matrix,
    "interval": _region,
    "set": _solutions,
    "assignment": _assigned,
    "sequence": _sequence,
    "ratio": _ratio,
    "range": _range,
    "equation": _equation,
    "named": _named,
    "quantity": _quantity,
    "text": _text,
}
"""Every kind of answer, in the order in which a reference is tried."""
FINAL = frozenset({"choice", "yes_no", "special", "date"})
"""Kinds that leave no second reading."""
