"""Taking an answer out of a response and deciding whether it is right, for the tasks in `benchmarks/suites/tasks`.

    prompt.py     the system prompt that asks for the response form
    extract.py    response -> caption, reasoning, answer
    choices.py    answer -> letter of an option
    maths.py      are two formulas equal? (in a process of its own, with a time limit)
    verdict.py    names of the rules that decide, and which of them a judge may be asked about
    tasks.py      what every task of lmms-eval needs: messages, and the record of one scored response

Nothing here guesses. What cannot be read is `unparseable` and wrong, and is counted as such.

Standard library only, but for maths.py's child process, which needs the lmms_eval environment.
"""
