"""What a recipe needs before it runs: memory, time and disk of every stage, from formulas that are shown.

`plan.make` turns a recipe and GPUs into one `StagePlan` per stage; `prism plan` and `prism train --dry-run` print them.
Nothing here imports torch or loads a model: dimensions come from a `config.json`, bytes from what the engines are
known to keep. Each formula stands where it is used, with its source.
"""
