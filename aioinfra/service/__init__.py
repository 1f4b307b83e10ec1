"""The composition root: the only place that knows cache, jobs, logs and metrics at once.

`service.py` is the object that applications hold, `options.py` says what it is made of, `tasks.py` finds its tasks,
`parts.py` opens what exists while it is open, and `worker.py` makes its workers.
"""

from aioinfra.service.options import CacheSetup, ServiceOptions, WorkerSetup
from aioinfra.service.service import Service

__all__ = ["CacheSetup", "Service", "ServiceOptions", "WorkerSetup"]
