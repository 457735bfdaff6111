"""A loopback Hub to try things on by hand. Ends with Ctrl-C; its folder keeps what was released.

PYTHONPATH=tests/hub python -m loopback FOLDER        # prints the variables that lead a client to it
"""

import sys
import threading
from contextlib import suppress
from pathlib import Path

from loopback.server import hub

with hub(Path(sys.argv[1])) as server, suppress(KeyboardInterrupt):
    for name, value in server.env().items():
        print(f"export {name}={value}", flush=True)
    threading.Event().wait()
