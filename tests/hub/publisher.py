"""Publish a folder in a process of its own, as `prism release` does when its checks have passed.

    python tests/hub/publisher.py FOLDER NS/NAME RECEIPTS [--tag v1.0] [--public] [--verify DIR]

With `--verify` the release is then downloaded below DIR and compared. Ends with prism's exit codes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from integrations.errors import PrismError
from release import manifest
from release.hub.publish import Target, publish
from release.hub.verify import verify


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo")
    parser.add_argument("receipts", type=Path)
    parser.add_argument("--tag")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--verify", type=Path)
    asked = parser.parse_args()
    written = manifest.read(asked.folder)
    assert written is not None
    target = Target(asked.repo, tag=asked.tag, public=asked.public, message="Release")
    try:
        receipt = publish(asked.folder, written, target, print, asked.receipts)
        found = verify(asked.repo, str(receipt.commit), "model", asked.verify, None, print) if asked.verify else []
    except PrismError as error:
        print(f"{error.problem} {error.fix}", file=sys.stderr)
        return error.exit_code
    print(*found, sep="\n")
    return 1 if any(finding.severity == "error" for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
