"""The adapter to arq, and the only importer of it: `ArqWorker` is an `arq.Worker` whose run loop, claim, run and
finish are the engine's.

The drop-in keeps arq's constructor, attributes, hooks, ctx, log messages and pickle default. A `Service`'s worker
is an `ArqWorker` too, built by `ArqWorker.from_tasks`.
"""

from aioinfra.jobs.arq.codec import ArqCodec
from aioinfra.jobs.arq.factory import worker_from_settings
from aioinfra.jobs.arq.settings import EngineOptions
from aioinfra.jobs.arq.worker import ArqWorker

__all__ = ["ArqCodec", "ArqWorker", "EngineOptions", "worker_from_settings"]
