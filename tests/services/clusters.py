"""Clusters of Kafka that the tests own: for one test, or for all processes side by side."""

import asyncio
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tests.services.backend import Backend, Services
from tests.services.brokers import Brokers, OwnKafka
from tests.services.native_kafka import NativeKafka


def new_kafka(services: Services, count: int = 1, properties: Mapping[str, str] | None = None) -> OwnKafka:
    """A cluster that is still to be started."""
    brokers: Brokers
    if services.backend is Backend.DOCKER:
        from tests.services.container_kafka import ContainerKafka

        brokers = ContainerKafka(count, properties)
    else:
        assert services.kafka_home is not None
        brokers = NativeKafka(services.kafka_home, count, properties, prepared=services.kafka_prepared)
    return OwnKafka(brokers, count)


class SharedKafka:
    """A cluster for all processes that run tests side by side, owned by the one that starts them.

    It starts in the background, while they collect their tests; who needs it waits.
    """

    def __init__(self, services: Services) -> None:
        self._prepared = tempfile.TemporaryDirectory(prefix="outbox-kafka-")
        self._cluster = new_kafka(replace(services, kafka_prepared=Path(self._prepared.name)))
        self._thread = ThreadPoolExecutor(1)
        self._starting = self._thread.submit(lambda: asyncio.run(self._cluster.brokers.start()))

    @property
    def known(self) -> dict[str, str]:
        """What the processes need to know, see `use`."""
        return {"bootstrap_servers": self._cluster.bootstrap_servers, "prepared": self._prepared.name}

    @staticmethod
    def use(services: Services, known: Mapping[str, str]) -> Services:
        """The services of a process that was told this."""
        return replace(services, bootstrap_servers=known["bootstrap_servers"], kafka_prepared=Path(known["prepared"]))

    def remove(self) -> None:
        """End it, and say why if it could not be started."""
        try:
            self._starting.result()
        finally:
            self._thread.shutdown()
            asyncio.run(self._cluster.brokers.remove())
            self._prepared.cleanup()
