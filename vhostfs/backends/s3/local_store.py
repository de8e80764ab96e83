"""A store of this daemon's own, for trying things out: ministack, an S3 server from PyPI, on loopback.

It runs in a process of its own, which the kernel ends with the daemon, and keeps all in memory. Run as a
program, this module is that process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException
from typing import Final

from vhostfs.backends.s3.client.signing import Credentials
from vhostfs.errors import ConfigurationError, StartError

ADDRESS: Final = "127.0.0.1"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 2.0
CREDENTIALS: Final = Credentials("local", "local")
"""Any are right."""

_PR_SET_PDEATHSIG: Final = 1


class LocalStore:
    """A store that runs, until `stop` or this process's end."""

    def __init__(self, bucket: str) -> None:
        """Start it with an empty bucket.

        Raise ConfigurationError where ministack is not installed, StartError where it does not start.
        """
        if importlib.util.find_spec("ministack") is None:
            raise ConfigurationError("local_store needs the package ministack (vhostfs[local-store])")
        with socket.socket() as reserved:
            reserved.bind((ADDRESS, 0))
            port = reserved.getsockname()[1]
        self.url: Final = f"http://{ADDRESS}:{port}"
        settings = {
            "BIND_HOST": ADDRESS,
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
            "LOG_LEVEL": "ERROR",
            "S3_PERSIST": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "vhostfs.backends.s3.local_store"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while not _has_bucket(port, bucket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise StartError("local_store: ministack does not start")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and all that it holds."""
        self._process.terminate()  # it has files of its own to take away
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _has_bucket(port: int, bucket: str) -> bool:
    """Make a bucket, if the server answers already."""
    connection = HTTPConnection(ADDRESS, port, timeout=5)
    try:
        connection.request("PUT", f"/{bucket}")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _run() -> None:
    """Be the server, for as long as the process that wanted it lives."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:  # it has not ended meanwhile
        runpy.run_module("ministack", run_name="__main__")


if __name__ == "__main__":
    _run()
