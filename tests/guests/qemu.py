"""QEMU guests, emulated without KVM: one boot serves many tests, each of which plugs devices in and out."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.guests.agent import Agent, LostGuestError
from tests.guests.daemon import Daemon
from tests.guests.guest import Guest, console_tail
from tests.guests.images import Emulator, Kernel
from tests.guests.qmp import Monitor, MonitorError
from tests.guests.uml import SCRIPTS

_BOOT_SECONDS = 180.0
_START_SECONDS = 30.0
_AGENT_PORT = "vhostfs.agent"


class QemuGuest(Guest):
    """A QEMU guest with an initrd. The devices of ``devices`` are there at boot; ``plug`` adds others later.

    With ``userland``, a daemon that serves the host's root directory and that is among ``devices``,
    commands run in a whole Debian. ``directory`` takes the console's log, the initrd and sockets.
    ``/dev/kvm`` is never used: on machines where it exists and does not work, a guest would hang.
    """

    def __init__(
        self,
        emulator: Emulator,
        kernel: Kernel,
        directory: Path,
        *,
        devices: Sequence[Daemon] = (),
        userland: Daemon | None = None,
        processors: int = 1,
        queues: int = 1,
    ) -> None:
        self.release = kernel.release
        self.userland = "/host" if userland else "/"
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        console = directory / "console.log"
        initrd = _initrd_with_scripts(kernel, directory)
        agent_path = directory / "agent.sock"
        monitor_path = directory / "monitor.sock"
        options = f"vhostfs_main=/agent vhostfs_modules=/modules vhostfs_port={_AGENT_PORT}"
        if userland:
            options += f" vhostfs_root={userland.tag}"
        command = [
            str(emulator.program),
            *("-nodefaults", "-nographic", "-M", "pc,memory-backend=mem", "-accel", "tcg", "-cpu", "max"),
            *("-smp", str(processors), "-m", "768M,slots=2,maxmem=2G"),
            *("-object", "memory-backend-memfd,id=mem,size=768M,share=on"),
            *("-kernel", str(kernel.vmlinuz), "-initrd", str(initrd)),
            *("-append", f"console=ttyS0 quiet panic=-1 memhp_default_state=online_movable {options}"),
            *("-serial", f"file:{console}"),
            *("-qmp", f"unix:{monitor_path},server=on,wait=off"),
            *(
                "-chardev",
                f"socket,id=agent,path={agent_path},server=on,wait=off",
                "-device",
                "virtio-serial-pci",
            ),
            *("-device", f"virtserialport,chardev=agent,name={_AGENT_PORT}"),
        ]
        for daemon in devices:
            command += ["-chardev", f"socket,id=chardev-{daemon.tag},path={daemon.socket}"]
            command += ["-device", json.dumps(_device(daemon, queues))]
        self._log = directory / "qemu.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._line = socket.socket(socket.AF_UNIX)
        self._monitor: Monitor | None = None
        try:
            self._wait_listening(agent_path)
            self._monitor = Monitor(monitor_path, _START_SECONDS)
            self.agent = Agent(self._line.fileno(), self._line.fileno(), console_tail(console, self._log))
            self.agent.wait_ready(_BOOT_SECONDS)
        except MonitorError as error:
            self.close()
            raise LostGuestError(f"QEMU did not start ({error}): {self._log.read_text()}") from error
        except BaseException:
            self.close()
            raise

    @property
    def monitor(self) -> Monitor:
        """QEMU's monitor."""
        if self._monitor is None:
            raise LostGuestError("the guest has been closed")
        return self._monitor

    def plug(self, daemon: Daemon, *, queues: int = 1) -> None:
        """Plug a device with this many request queues into the running guest; ``mount`` waits for it."""
        address = {"type": "unix", "data": {"path": str(daemon.socket)}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        self.monitor.execute("chardev-add", {"id": f"chardev-{daemon.tag}", "backend": backend})
        self.monitor.execute("device_add", _device(daemon, queues))

    def unplug(self, daemon: Daemon) -> None:
        """Take a device out that no file system is mounted from, and wait until the guest has let it go."""
        self.monitor.execute("device_del", {"id": f"device-{daemon.tag}"})
        self.monitor.wait_event("DEVICE_DELETED", device=f"device-{daemon.tag}")
        self.monitor.execute("chardev-remove", {"id": f"chardev-{daemon.tag}"})

    def add_memory(self, mebibytes: int) -> None:
        """Plug memory into the running guest and wait until it is used, for files before all."""
        memory = {"qom-type": "memory-backend-memfd", "id": "more", "size": mebibytes << 20, "share": True}
        self.monitor.execute("object-add", memory)
        self.monitor.execute("device_add", {"driver": "pc-dimm", "id": "dimm", "memdev": "more"})
        self.run(
            "until sed -n '/zone *Movable/,/managed/p' /proc/zoneinfo | grep -q 'managed *[1-9]'; do :; done"
        )

    def pause(self) -> None:
        """Stop the guest's processors and devices."""
        self.monitor.execute("stop")

    def resume(self) -> None:
        """Let a paused guest go on."""
        self.monitor.execute("cont")

    def reset(self) -> None:
        """Press the reset button and wait until the guest has booted again; its devices stay."""
        self.monitor.execute("system_reset")
        self.agent.wait_ready(_BOOT_SECONDS)

    def close(self) -> None:
        """End the guest at once, as when its power is cut. May be called twice."""
        self._line.close()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._process.kill()
        self._process.wait(30)

    def _wait_listening(self, path: Path) -> None:
        # QEMU makes all its sockets before it starts the guest, and tells nobody when.
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._line.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise LostGuestError(f"QEMU did not start:\n{self._log.read_text()}") from None
                time.sleep(0.02)
            else:
                return


def _device(daemon: Daemon, queues: int) -> dict[str, Any]:
    """Describe the device as ``device_add`` wants it."""
    return {
        "driver": "vhost-user-fs-pci",
        "id": f"device-{daemon.tag}",
        "chardev": f"chardev-{daemon.tag}",
        "tag": daemon.tag,
        "queue-size": 1024,
        "num-request-queues": queues,
        "packed": daemon.packed,
    }


def _initrd_with_scripts(kernel: Kernel, directory: Path) -> Path:
    """Put the scripts that run in the guest behind the kernel's initrd; kernels unpack both."""
    tree = directory / "initrd-scripts"
    tree.mkdir()
    for script in ("init", "agent"):
        shutil.copy(SCRIPTS / script, tree / script)
    archive = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"],
        cwd=tree,
        input=b"init\nagent\n",
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout
    initrd = directory / "initrd"
    initrd.write_bytes(kernel.initrd.read_bytes() + archive)
    return initrd
