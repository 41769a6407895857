"""Apache Kafka from its image."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.services.brokers import cluster_properties
from tests.services.ports import free_port

IMAGE = "apache/kafka:4.3.1"

_CLUSTER_ID = "b3V0Ym94LXRlc3RzLTAwMA"


class ContainerKafka:
    """`Brokers` as containers on a network of their own; clients reach them on free loopback ports.

    TESTCONTAINERS_RYUK_DISABLED is honoured by testcontainers: then only `remove` cleans up.
    """

    def __init__(self, brokers: int = 1, properties: Mapping[str, str] | None = None) -> None:
        self._network = Network()
        self._network_made = False
        ports = {number: free_port() for number in range(1, brokers + 1)}
        settings = {**cluster_properties(brokers), **(properties or {})}
        self._containers = {number: _container(number, ports, settings).with_network(self._network) for number in ports}
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port in ports.values())

    async def start(self) -> None:
        await asyncio.to_thread(self._network.create)
        self._network_made = True
        for container in self._containers.values():
            await asyncio.to_thread(container.start)

    async def start_broker(self, broker: int) -> None:
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().start)

    async def stop_broker(self, broker: int) -> None:
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().stop, timeout=60)

    async def kill(self, broker: int) -> None:
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().kill)
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().wait)

    async def pause(self, broker: int) -> None:
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().pause)

    async def resume(self, broker: int) -> None:
        await asyncio.to_thread(self._containers[broker].get_wrapped_container().unpause)

    async def run_tool(self, tool: str, *arguments: str) -> str:
        command = [f"/opt/kafka/bin/{tool}", "--bootstrap-server", f"{_host(1)}:{_INTERNAL}", *arguments]
        result = await asyncio.to_thread(self._containers[1].exec, command)
        assert result.exit_code == 0, result.output.decode()
        return result.output.decode()

    def log(self, broker: int) -> str:
        """The end of what the broker has logged."""
        out, err = self._containers[broker].get_logs()
        return (out + err).decode(errors="replace")[-4000:]

    async def remove(self) -> None:
        for container in self._containers.values():
            await asyncio.to_thread(container.stop)
        if self._network_made:
            await asyncio.to_thread(self._network.remove)
        self._network._docker.client.close()


_INTERNAL, _CONTROLLER = 19092, 19093  # ports on the containers' network


def _host(broker: int) -> str:
    return f"kafka-{broker}"


def _container(broker: int, ports: Mapping[int, int], settings: Mapping[str, str]) -> DockerContainer:
    # The port is the same inside and outside, so that it is the one that the broker advertises.
    port = ports[broker]
    properties = {
        "node.id": str(broker),
        "controller.quorum.voters": ",".join(f"{number}@{_host(number)}:{_CONTROLLER}" for number in ports),
        "listeners": f"HOST://:{port},INTERNAL://:{_INTERNAL},CONTROLLER://:{_CONTROLLER}",
        "advertised.listeners": f"HOST://127.0.0.1:{port},INTERNAL://{_host(broker)}:{_INTERNAL}",
        "inter.broker.listener.name": "INTERNAL",
        **settings,
    }
    container = DockerContainer(IMAGE).with_network_aliases(_host(broker)).with_env("CLUSTER_ID", _CLUSTER_ID)
    container.with_env("KAFKA_HEAP_OPTS", "-Xms256m -Xmx512m")
    for name, value in properties.items():
        container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
    # On loopback only, which the types do not foresee.
    container.ports = cast("Any", {f"{port}/tcp": ("127.0.0.1", port)})
    return container
