"""Speed measurements, run by `prism bench NAME`.

Each module measures one thing: its docstring's first line says which, `ENGINE` names the environment it runs in (None:
prism's own), `measure(options)` does it. Both sides of a comparison run in turns in one process or one sitting, so
that what else the machine is doing meets both; times are never checked by a test.
"""
