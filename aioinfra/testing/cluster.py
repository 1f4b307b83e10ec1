"""A Redis or Valkey Cluster of masters and replicas, made with the servers' own commands."""

from __future__ import annotations

import asyncio
import binascii
from collections import Counter
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

from aioinfra.errors import StoreError, StoreUnavailable
from aioinfra.testing.server_process import HOST, close_together, free_ports, start_together, wait_for
from aioinfra.testing.servers import RedisServer, ServerOptions, check_count, check_member, check_time

SLOTS: Final = 16_384
_READY = 20.0
_ANSWERS_WITHIN: Final = 1.0  # a node of a busy machine must not count as one that is away


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a cluster is made of.

    Attributes:
        masters: at least 3: with fewer there is no majority for a failover, and cross-slot mistakes hide.
        replicas: of each master.
        node_timeout: seconds of silence after which a node counts as down.
        server: the nodes' options.
    """

    masters: int = 3
    replicas: int = 1
    node_timeout: float = 1.0
    server: ServerOptions = field(default_factory=ServerOptions)

    def __post_init__(self) -> None:
        check_count("masters", self.masters, 3, 16)
        check_count("replicas", self.replicas, 0, 4)
        check_time("node_timeout", self.node_timeout)
        check_member(self.server)


def slot_of(key: str | bytes) -> int:
    """The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it, modulo 16,384.

    Source: the Redis Cluster specification, "Key distribution model".
    """
    data = key.encode() if isinstance(key, str) else key
    opening = data.find(b"{")
    closing = data.find(b"}", opening + 1)
    if opening >= 0 and closing > opening + 1:
        data = data[opening + 1 : closing]
    return binascii.crc_hqx(data, 0) % SLOTS


def _node(options: ClusterOptions, port: int, bus_port: int) -> ServerOptions:
    common = options.server.with_lines(
        "cluster-enabled yes",
        f"cluster-port {bus_port}",
        f"cluster-node-timeout {int(options.node_timeout * 1000)}",
        "cluster-replica-validity-factor 0",  # a replica takes over however long it was cut off
        "cluster-allow-replica-migration no",  # replicas stay where a test expects them
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
    )
    return replace(common, port=port)


class ClusterSetup:
    """A cluster, for the time of an ``async with`` block. The nodes are servers like any other.

    Args:
        options: see `ClusterOptions`.

    Raises:
        InvalidArgument: names what does not fit.
        EmbeddedServerError: no server program was found; from the start: one ended, with the end of its log.

    Example::

        async with ClusterSetup() as cluster:
            node = await cluster.node_of("user:7")
            await node.kill()
            await cluster.wait_ok()
    """

    def __init__(self, options: ClusterOptions = ClusterOptions()) -> None:
        self.options = options
        count = options.masters * (1 + options.replicas)
        ports = free_ports(2 * count)
        self._bus_ports = dict(zip(ports[:count], ports[count:], strict=True))
        self.nodes = tuple(RedisServer(_node(options, port, bus)) for port, bus in self._bus_ports.items())
        """All nodes; the first ones began as the masters."""

    @property
    def urls(self) -> list[str]:
        """URL of each node, as clients want them to start from."""
        return [node.url for node in self.nodes]

    # Life

    async def start(self) -> None:
        """Start the nodes, join them, assign all slots and the replicas. Usually 1 to 3 s."""
        try:
            await start_together(self.nodes)
            await self._assign_slots()
            await self._meet()
            await self._replicate()
            await self.wait_ok(_READY)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all nodes. Blocks for milliseconds; may be repeated."""
        close_together(self.nodes)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _assign_slots(self) -> None:
        masters = self.options.masters
        for at, node in enumerate(self.nodes):
            await node.admin("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            if at < masters:
                first, after = at * SLOTS // masters, (at + 1) * SLOTS // masters
                await node.admin("CLUSTER", "ADDSLOTSRANGE", first, after - 1)

    async def _meet(self) -> None:
        """Introduce every node to every other, which gossip alone would do more slowly."""
        for at, node in enumerate(self.nodes):
            for other in self.nodes[at + 1 :]:
                host, port = HOST, other.port
                await node.admin("CLUSTER", "MEET", host, port, self._bus_ports[port])
        await wait_for(self._acquainted, _READY, "the nodes did not find each other")

    async def _acquainted(self) -> bool:
        tables = await asyncio.gather(*(node.admin("CLUSTER", "NODES") for node in self.nodes))
        known = [
            sum(b"handshake" not in line and b" connected" in line for line in table.splitlines())
            for table in tables
        ]
        return min(known) == len(self.nodes)

    async def _replicate(self) -> None:
        masters = self.nodes[: self.options.masters]
        ids = await asyncio.gather(*(node.admin("CLUSTER", "MYID") for node in masters))
        for at, node in enumerate(self.nodes[self.options.masters :]):
            await node.admin("CLUSTER", "REPLICATE", ids[at % len(ids)])

    # What is

    async def node_of(self, key: str | bytes) -> RedisServer:
        """The master that serves a key's slot, as the nodes that answer say: most of them, where they differ.

        Raises:
            StoreUnavailable: no node answers, or none serves the slot.
        """
        slot = slot_of(key)
        owners = Counter(
            owner
            for table in await self._slot_tables()
            for first, last, owner in table
            if first <= slot <= last
        )
        if not owners:
            raise StoreUnavailable("nobody serves the slot")
        return self._at(owners.most_common(1)[0][0])

    def _at(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    async def _slot_tables(self) -> list[list[tuple[int, int, int]]]:
        """What each node that answers says: first slot, last slot, port of the master."""
        answers = await asyncio.gather(*(_ask(node, "CLUSTER", "SLOTS") for node in self.nodes))
        return [
            sorted((entry[0], entry[1], entry[2][1]) for entry in answer)
            for answer in answers
            if answer is not None
        ]

    async def wait_ok(self, timeout: float = 20.0) -> None:
        """Wait until the cluster serves every slot again, whichever nodes are killed or frozen.

        That is: all nodes that answer agree on who serves which slot, those answer and are masters, and every
        other node that answers replicates.

        Raises:
            TimeoutError: not within ``timeout`` seconds.
        """
        await wait_for(self._ok, timeout, "the cluster did not serve every slot")

    async def _ok(self) -> bool:
        states = await asyncio.gather(*(_ask(node, "CLUSTER", "INFO") for node in self.nodes))
        if any(state is not None and b"cluster_state:ok" not in state for state in states):
            return False
        tables = await self._slot_tables()
        if not tables or any(table != tables[0] for table in tables):
            return False
        if sum(last - first + 1 for first, last, _ in tables[0]) != SLOTS:
            return False
        owners = {port for _, _, port in tables[0]}
        roles = await asyncio.gather(*(_ask(node, "ROLE") for node in self.nodes))
        return all(
            _fits(role, serves=node.port in owners) for node, role in zip(self.nodes, roles, strict=True)
        )


async def _ask(node: RedisServer, *command: str) -> Any:
    """The reply, or None when the node is away."""
    if not node.running or node.frozen:
        return None
    try:
        return await node.admin(*command, timeout=_ANSWERS_WITHIN)
    except StoreError:
        return None


def _fits(role: Any, *, serves: bool) -> bool:
    """Whether a node's own view of its role goes with the slot table; a node that is away must serve nothing."""
    if role is None:
        return not serves
    if role[0] == b"master":
        return serves
    return not serves and bool(role[3] == b"connected")
