"""Decorators that measure functions with an application's own instruments.

All work on functions, coroutine functions, generators and async generators, and as context managers::

    seconds = Histogram("shop_render_seconds", "Time to render.", registry, ("page",))

    @timed(seconds, "invoice")
    async def render_invoice() -> bytes: ...
"""

from __future__ import annotations

from aioinfra.errors import InvalidArgument
from aioinfra.metrics.exemplars import TraceId, request_trace_id
from aioinfra.metrics.instruments import Counter, Gauge, Histogram
from aioinfra.metrics.slots import HistogramSlot
from aioinfra.metrics.tracker import End, Tracker


class timed(Tracker):  # noqa: N801 - a decorator
    """Observe the duration of every call, in seconds, however it ends.

    Args:
        histogram: of seconds.
        labels: values of all its labels.
        trace_id: of the call that ends, for exemplars.

    Raises:
        InvalidArgument: the number of values is wrong.
    """

    def __init__(self, histogram: Histogram, *labels: object, trace_id: TraceId = request_trace_id) -> None:
        super().__init__()
        self._slot: HistogramSlot = histogram.labels(*labels)
        self._trace_id = trace_id

    def ended(self, end: End) -> None:
        self._slot.observe(end.seconds, self._trace_id())


class counted(Tracker):  # noqa: N801 - a decorator
    """Count every call when it ends, by outcome: ok, error or cancelled.

    Args:
        counter: whose last label is the outcome.
        labels: values of its other labels.

    Raises:
        InvalidArgument: the number of values is wrong.
    """

    def __init__(self, counter: Counter, *labels: object) -> None:
        super().__init__()
        if len(labels) != len(counter.label_names) - 1:
            wanted = ", ".join(counter.label_names[:-1]) or "no labels"
            raise InvalidArgument(
                "labels", f"{counter.name} takes {wanted} here, and an outcome as its last label"
            )
        self._counter, self._labels = counter, labels

    def ended(self, end: End) -> None:
        self._counter.labels(*self._labels, end.outcome).inc()


class in_progress(Tracker):  # noqa: N801 - a decorator
    """Show how many calls are under way.

    Args:
        gauge: goes up at a call and down at its end.
        labels: values of all its labels.

    Raises:
        InvalidArgument: the number of values is wrong.
    """

    def __init__(self, gauge: Gauge, *labels: object) -> None:
        super().__init__()
        self._slot = gauge.labels(*labels)

    def began(self) -> None:
        self._slot.inc()

    def ended(self, end: End) -> None:  # noqa: ARG002 - goes down however it ended
        self._slot.dec()
