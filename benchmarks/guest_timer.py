"""Run one command in a guest and say how long it took: a program that the guest benchmark copies there.

    guest_timer.py DIRECTORY INPUT COMMAND...

runs the command in a directory, with a file as its standard input, and prints JSON: its exit status, the
seconds from its start to its end on the guest's monotonic clock, and all that it printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path


def main(directory: str, source: str, *command: str) -> None:
    """Run the command and print how it went."""
    with Path(source).open("rb") as stdin, Path("/tmp/printed").open("w+b") as printed:
        began = time.monotonic()
        status = subprocess.run(
            command, cwd=directory, stdin=stdin, stdout=printed, stderr=printed, check=False
        ).returncode
        seconds = time.monotonic() - began
        printed.seek(0)
        output = printed.read().decode(errors="backslashreplace")
    sys.stdout.write(json.dumps({"status": status, "seconds": seconds, "output": output}))


if __name__ == "__main__":
    main(*sys.argv[1:])
