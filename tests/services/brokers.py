"""What a test can do to the brokers of a cluster of its own."""

from typing import Protocol

from tests.services.kafka import RealKafka

# What the listeners speak; clients use PLAINTEXT or, with containers, HOST.
_PROTOCOLS = "PLAINTEXT:PLAINTEXT,HOST:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:"
_LOGIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="controller" password="controller" user_controller="controller";'
)

# Rules of access that allow everything nobody has forbidden: `deny_writing` takes effect only with these.
# Controllers elect a leader before they know any rules, so they must be somebody who needs none.
AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:controller",
    "listener.security.protocol.map": _PROTOCOLS + "SASL_PLAINTEXT",
    "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
    "listener.name.controller.plain.sasl.jaas.config": _LOGIN,
    "sasl.mechanism.controller.protocol": "PLAIN",
}


def cluster_properties(brokers: int) -> dict[str, str]:
    """Settings of a small cluster for tests, whatever it runs in."""
    in_sync = "2" if brokers >= 3 else "1"
    return {
        "min.insync.replicas": in_sync,
        "process.roles": "broker,controller",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": _PROTOCOLS + "PLAINTEXT",
        "auto.create.topics.enable": "false",
        "num.partitions": "4",
        "default.replication.factor": str(brokers),
        "offsets.topic.replication.factor": str(brokers),
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": str(brokers),
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": str(brokers),
        "share.coordinator.state.topic.min.isr": in_sync,
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # A killed broker is back as soon as its old session has expired: 9 s by default.
        "broker.session.timeout.ms": "6000",
        "broker.heartbeat.interval.ms": "1000",
        # At rest it need not write, twice a second, that it is at rest.
        "metadata.max.idle.interval.ms": "10000",
    }


class Brokers(Protocol):
    """The brokers of one cluster, numbered from 1. Each keeps its address and its data until `remove`."""

    bootstrap_servers: str

    async def start(self) -> None:
        """Start all of them; does not wait until they serve clients."""

    async def start_broker(self, broker: int) -> None: ...

    async def stop_broker(self, broker: int) -> None:
        """A clean shutdown, which moves leaders away first."""

    async def kill(self, broker: int) -> None:
        """SIGKILL. It can be started again at once, but serves only after its old session has expired."""

    async def pause(self, broker: int) -> None:
        """Freeze it: connections stay open, nobody answers."""

    async def resume(self, broker: int) -> None: ...

    async def run_tool(self, tool: str, *arguments: str) -> str:
        """Run a `kafka-….sh` of the distribution against the cluster; what it printed."""

    def log(self, broker: int) -> str:
        """The end of what the broker has logged."""

    async def remove(self) -> None:
        """End all of them in whatever state they are, and delete their data."""


class OwnKafka(RealKafka):
    """A real cluster whose brokers a test may break."""

    def __init__(self, brokers: Brokers, count: int) -> None:
        super().__init__(brokers.bootstrap_servers)
        self.brokers = brokers
        self.count = count

    async def start(self) -> None:
        await self.brokers.start()
        try:
            await self.wait_until_ready(self.count)
        except AssertionError as error:
            error.add_note(self.brokers.log(1))
            raise

    async def deny_writing(self, topic: str) -> None:
        """Forbid everybody to write to the topic; the cluster was made with AUTHORIZER."""
        await self._change_rule("--add", "Write", "--topic", topic)

    async def allow_writing(self, topic: str) -> None:
        await self._change_rule("--remove", "Write", "--topic", topic, "--force")

    async def deny_group(self, group: str) -> None:
        """Forbid everybody to be a member of the group, to tell it offsets and to ask for them; the same."""
        await self._change_rule("--add", "Read", "--group", group)

    async def allow_group(self, group: str) -> None:
        await self._change_rule("--remove", "Read", "--group", group, "--force")

    async def _change_rule(self, change: str, operation: str, *options: str) -> None:
        rule = ("--deny-principal", "User:*", "--operation", operation)
        await self.brokers.run_tool("kafka-acls.sh", change, *rule, *options)
