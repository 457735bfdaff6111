"""`prism doctor`: whether this machine will carry a run, said before the first hour is spent.

One module per subject, each with a function that returns what it found. A subject is asked through plain values
(`Limits`, `Gpu`, a mapping of variables), so that a test can show what it says of a machine that is not at hand.
"""
