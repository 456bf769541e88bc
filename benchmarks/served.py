"""`t2l serve` in a process of its own, on a free port of this machine."""

from __future__ import annotations

import re
import subprocess
import sys


class Server:
    """A server that is started, killed and started again.

    arguments: those of `t2l serve` but for the port
    """

    def __init__(self, *arguments: object) -> None:
        words = ("serve", *map(str, arguments), "--port", "0")
        self._command = [sys.executable, "-m", "text_to_lora.cli", *words]
        self.start()

    def start(self) -> None:
        """Start the process, and wait until its models are loaded and clients can connect.

        Raises SystemExit with what the process printed when it ends.
        """
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        printed = ""
        for line in self.process.stderr:
            if address := re.search(r"http://[\d.]+:\d+", line):
                self.url = address[0]
                return
            printed += line
        raise SystemExit(f"the server did not start: {printed}")

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask the process to end, and wait for it; gives its exit status."""
        self.process.terminate()
        return self.process.wait(60)
