"""Run a module as ``python -m`` would, in a process that never outlives the one that started it.

    python -m aioinfra.cli.demo.child uvicorn catalogue.app:app --port 8000

The starter holds the writing end of this process' standard input. However the starter ends, also by SIGKILL,
the kernel closes that end; what is read here is then end-of-file, and this process asks itself to stop.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

GRACE: Final = 20.0  # seconds for a graceful stop after the starter is gone


def _stop_at_end_of_input() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def main() -> None:
    """Start the watch, then become the module named first on the command line."""
    sys.argv = sys.argv[1:]
    threading.Thread(target=_stop_at_end_of_input, name="starter-watch", daemon=True).start()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
