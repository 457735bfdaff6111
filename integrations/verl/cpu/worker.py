"""The interpreter Ray is told to start its workers with (`runtime_env.py_executable`): asks for a fork instead.

    python -I -S worker.py SOCKET default_worker.py ARGUMENTS

Hands its arguments, environment, working folder and standard streams to `integrations.verl.cpu.launch`, which forks a
process that has the large packages imported, and stays until that process ends, with its exit code. Needs only the
standard library.
"""

import json
import os
import socket
import sys


def main() -> int:
    """Ask, then wait. Returns the worker's exit code; 1 when the launcher is gone."""
    request = {"argv": sys.argv[2:], "env": dict(os.environ), "cwd": os.getcwd()}
    body = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(body)
        answer = connection.recv(4)
    return int.from_bytes(answer, "big") if answer else 1


if __name__ == "__main__":
    sys.exit(main())
