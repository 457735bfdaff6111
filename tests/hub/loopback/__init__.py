"""A Hugging Face Hub on loopback to test releases against. See `server`, and `faults` for what can go wrong."""

from loopback.clients import LINES, client_env
from loopback.faults import FOREVER, Pause, cut, delay, drop, hang, hook, lose, status, trickle
from loopback.messages import FINE_TOKEN, READ_TOKEN, STRANGER_TOKEN, WRITE_TOKEN, Call
from loopback.server import Hub, hub

__all__ = [
    "FINE_TOKEN",
    "FOREVER",
    "LINES",
    "READ_TOKEN",
    "STRANGER_TOKEN",
    "WRITE_TOKEN",
    "Call",
    "Hub",
    "Pause",
    "client_env",
    "cut",
    "delay",
    "drop",
    "hang",
    "hook",
    "hub",
    "lose",
    "status",
    "trickle",
]
