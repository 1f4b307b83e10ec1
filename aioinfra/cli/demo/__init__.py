"""`aioinfra demo`: a real service under real traffic, and a ledger that tells whether anything was lost.

command.py    the command line              run.py      start, verdict      serve.py    the middle of a run
place.py      directory, environment        processes.py, child.py          no process outlives the demo
traffic.py    visitors, over http.py        ledger.py   what was promised, against what is there
monitor.py -> picture.py -> view.py, summary.py         what is seen, with figures.py and logs.py
"""

from aioinfra.cli.demo.command import demo

__all__ = ["demo"]
