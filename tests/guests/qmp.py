"""QEMU's monitor: commands and events of one QEMU over a unix socket, blocking, each with a time-out."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MonitorError(Exception):
    """Raised when QEMU refuses a command, or has gone, or does not answer in time."""


class Monitor:
    """A connection to QEMU's monitor socket, past its greeting. Not for several threads."""

    __slots__ = ("_events", "_received", "_socket")

    def __init__(self, path: Path, timeout: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._received = b""
        self._events: list[dict[str, Any]] = []
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self._message(time.monotonic() + timeout)
            self.execute("qmp_capabilities", timeout=timeout)
        except BaseException:
            self._socket.close()
            raise

    def execute(
        self, command: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = 60.0
    ) -> Any:
        """Run a command and return what it returned."""
        request = {"execute": command, "arguments": dict(arguments or {})}
        deadline = time.monotonic() + timeout
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self._message(deadline)
            if "error" in message:
                raise MonitorError(f"{command} {arguments}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]
            self._events.append(message)

    def wait_event(self, name: str, *, timeout: float = 60.0, **data: str) -> None:
        """Wait for an event with these members in its data, and drop it; one that came earlier counts too."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            for index, event in enumerate(self._events[seen:], seen):
                if event.get("event") == name and data.items() <= event.get("data", {}).items():
                    del self._events[index]
                    return
            seen = len(self._events)
            self._events.append(self._message(deadline))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise MonitorError("QEMU's monitor did not answer in time") from None
            except ConnectionError as error:
                raise MonitorError(f"QEMU is gone ({error})") from error
            if not data:
                raise MonitorError("QEMU is gone")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
