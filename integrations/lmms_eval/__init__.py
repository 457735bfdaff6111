"""Evaluation by lmms-eval as published; its harness runs in its own environment, ours drives it.

`adapter.py` runs in prism's own process: it writes a job, says which command runs it and judges what came of it.
`inside/` runs in the environment: `worker.py` evaluates the job's cells one after another, `client.py` asks the server.
"""
