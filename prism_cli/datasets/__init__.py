"""Data sets before a run: fetched from the Hub, checked, counted and described (`prism data`).

`catalogue` says what there is, `hub` fetches it, `convert` makes pools of it; `reading` opens any of the known forms as
rows, which `check` (with `schema`, `texts`, `pictures`, `leakage`) and `stats` look at one by one.
"""
