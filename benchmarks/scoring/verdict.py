"""The names of the rules that decide about answers, as they stand in the samples store's `rule` column.

A rule's name says what decided, and with that how sure the verdict is. Those in JUDGEABLE are not certain: the answer
is there, in words or in a form that rules cannot decide, and a judge may be asked; it can raise and lower the verdict.
All others stand.
"""

from __future__ import annotations

from dataclasses import dataclass

RULES: dict[str, str] = {
    "unparseable": "There is no answer to be found in the response; wrong.",
    "letter": "An option's letter.",
    "option_text": "The text of exactly one option.",
    "yes_no": "A clear yes or no.",
    "number": "Numbers, compared as the benchmark compares them.",
    "exact": "The reference's own text, but for case and spaces.",
    "formula": "Formulas, compared by computer algebra.",
    "choice_unmatched": "The answer names no option, or several; wrong unless judged.",
    "yes_no_unmatched": "The answer is neither a clear yes nor a clear no; wrong unless judged.",
    "number_unmatched": "A number was asked for and the answer is not one; wrong unless judged.",
    "formula_with_words": "The formulas are equal, but words or units stand around one of them; right unless judged.",
    "formula_out_of_order": "The parts of a list are equal in another order; right unless judged.",
    "contains": "The reference is found inside a longer answer; right unless judged.",
    "open_unmatched": "A free answer that no rule finds equal to the reference; wrong unless judged.",
}
"""Every rule with what it means."""

JUDGEABLE = frozenset(
    {
        "choice_unmatched",
        "yes_no_unmatched",
        "number_unmatched",
        "formula_with_words",
        "formula_out_of_order",
        "contains",
        "open_unmatched",
    }
)
"""Rules whose verdict a judge may be asked about."""


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what decided."""

    correct: bool
    rule: str
    """One of RULES."""


UNPARSEABLE = Verdict(False, "unparseable")
