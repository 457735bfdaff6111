"""Making data: demonstrations from a teacher, prompts chosen by what a policy gets right, pairs for a discriminator.

    asking.py    rows put to a server, each request once: a journal keeps every answer, and a killed command goes on
    cost.py      what it costs, before and while it is spent
    distill.py   demonstrations in the paper's form from a teacher, through three filters
    passes.py    how often a policy answers each prompt right, and the prompts worth training on
    pairs.py     a teacher's and a policy's responses to one prompt, side by side

The recipe of the paper (section 4.1): problems that strong models never solve, demonstrations by a teacher, filtered
for form, by a language model and for the right answer; the prompts of RLVR have a pass rate between 0.2 and 0.8.
"""
