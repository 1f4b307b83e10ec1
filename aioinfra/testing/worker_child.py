"""The child of `WorkerProcess`: ``python -m aioinfra.testing.worker_child FD STEP SKIP TARGET ARGUMENTS...``.

Runs ``aioinfra worker TARGET ARGUMENTS...``, or the script that TARGET is, after wrapping the engine's seams in
this process. FD is the socket to the parent; STEP is empty when nothing is armed.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path

from aioinfra.testing.worker_steps import StepGate, step_of, wrap_seams


def main(fd: str, step: str, skip: str, target: str, arguments: list[str]) -> None:
    """Run the worker in this process until it ends by itself."""
    os.set_inheritable(int(fd), False)  # a grandchild must not keep the parent from seeing our end
    wrap_seams(StepGate(socket.socket(fileno=int(fd)), step_of("stop_at", step or None), int(skip)))
    if target.endswith(".py"):
        sys.argv = [target, *arguments]
        sys.path.insert(0, str(Path(target).resolve().parent))  # as python itself does for a script
        runpy.run_path(target, run_name="__main__")
    else:
        sys.argv = ["aioinfra", "worker", target, *arguments]
        runpy.run_module("aioinfra", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:])
