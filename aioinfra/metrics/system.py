"""The machine and this process: CPU, memory, disk and network I/O, as psutil reads them at a scrape."""

from __future__ import annotations

from typing import Final

import psutil

from aioinfra.metrics.registry import MetricsRegistry

_MODES: Final = ("user", "system", "idle", "iowait", "steal")


class SystemMetrics:
    """The system group. Nothing runs between scrapes; at one, some 0.3 ms in a thread.

    Counters are those of the kernel: they do not begin at zero, and rates are Prometheus' to take.

    Args:
        registry: where the metrics are; its scrapes read them until `close`.
    """

    def __init__(self, registry: MetricsRegistry) -> None:
        self._registry = registry
        self._process = psutil.Process()
        # One reading a kind: what a sandbox forbids costs no other.
        self._readings = (self._cpu, self._memory, self._disks, self._network, self._own, self._own_files)
        for reading in self._readings:
            registry.before_scrape(reading, blocking=True)

    def close(self) -> None:
        """Read no more; the last figures stay."""
        for reading in self._readings:
            self._registry.forget(reading)

    def _counter(self, name: str, label: str, total: float) -> None:
        self._registry.counter(f"aioinfra_system_{name}_total").labels(label).value = total

    def _gauge(self, name: str, value: float, *labels: str) -> None:
        self._registry.gauge(f"aioinfra_system_{name}").labels(*labels).set(value)

    def _cpu(self) -> None:
        times = psutil.cpu_times()
        for mode in _MODES:
            seconds = getattr(times, mode, None)  # some are Linux' alone
            if seconds is not None:
                self._counter("cpu_seconds", mode, seconds)
        self._gauge("cpus", psutil.cpu_count() or 1)

    def _memory(self) -> None:
        memory = psutil.virtual_memory()
        self._gauge("memory_bytes", memory.total, "total")
        self._gauge("memory_bytes", memory.available, "available")
        self._gauge("memory_bytes", memory.used, "used")

    def _disks(self) -> None:
        disks = psutil.disk_io_counters()
        if disks is None:  # a machine without any
            return
        self._counter("disk_io_bytes", "read", disks.read_bytes)
        self._counter("disk_io_bytes", "write", disks.write_bytes)
        self._counter("disk_io_operations", "read", disks.read_count)
        self._counter("disk_io_operations", "write", disks.write_count)

    def _network(self) -> None:
        network = psutil.net_io_counters()
        self._counter("network_io_bytes", "receive", network.bytes_recv)
        self._counter("network_io_bytes", "transmit", network.bytes_sent)
        self._counter("network_io_packets", "receive", network.packets_recv)
        self._counter("network_io_packets", "transmit", network.packets_sent)

    def _own(self) -> None:
        with self._process.oneshot():
            times = self._process.cpu_times()
            self._counter("process_cpu_seconds", "user", times.user)
            self._counter("process_cpu_seconds", "system", times.system)
            self._gauge("process_memory_bytes", self._process.memory_info().rss)
            self._gauge("process_threads", self._process.num_threads())
            self._gauge("process_start_time_seconds", self._process.create_time())

    def _own_files(self) -> None:
        self._gauge("process_open_files", self._process.num_fds())
