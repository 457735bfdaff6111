"""Stage 3, reinforcement learning from verifiable rewards, by verl's `python -m verl.trainer.main_ppo` as published.

`settings.py` and `adapter.py` run in prism's own process; `reward/` runs inside verl and needs nothing but Python;
`sampler.py` and `cpu/` run inside verl's environment.
"""
