"""librdkafka's mock cluster as a Kafka for machines where nothing is installed.

It lives in this process, on random ports of 127.0.0.1, and speaks Kafka's protocol to any client. Nothing
survives `close()`. It keeps about 5 MB per partition, knows no topic settings, does not fence producers, and
lets only one consumer per group join. Its C interface is documented upstream as experimental, so only this
module knows it.
"""

import ctypes
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Self

from app.errors import EmbeddedServiceError

_PRODUCER = 0  # rd_kafka_type_t
_DISTRIBUTION = "confluent-kafka"


class EmbeddedKafka:
    """A cluster of `brokers` brokers, numbered from 1, running as soon as it is constructed."""

    def __init__(self, brokers: int = 1) -> None:
        """Raises EmbeddedServiceError when the wheel is not installed or its library cannot do this."""
        if importlib.util.find_spec("confluent_kafka") is None:
            raise EmbeddedServiceError(
                "the embedded Kafka is not installed: pip install -r requirements-embedded.txt, "
                "or set KAFKA_BOOTSTRAP_SERVERS"
            )
        library = _load_library()
        self._cluster: _NativeCluster | _PublicCluster = (
            _PublicCluster(brokers) if library is None else _NativeCluster(library, brokers)
        )

    @property
    def bootstrap_servers(self) -> str:
        """`host:port` of each broker, separated by commas."""
        return self._cluster.bootstrap_servers

    def create_topic(self, name: str, partitions: int = 4) -> None:
        """Create a topic. Raises EmbeddedServiceError when it exists."""
        self._cluster.create_topic(name, partitions)

    def close(self) -> None:
        """End the cluster and drop all records; a second call does nothing."""
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_down(self, broker: int) -> None:
        """Close the broker's connections and its listener."""
        self._native.call("rd_kafka_mock_broker_set_down", ctypes.c_int32(broker))

    def set_up(self, broker: int) -> None:
        """Let the broker listen again, on the same port."""
        self._native.call("rd_kafka_mock_broker_set_up", ctypes.c_int32(broker))

    def set_round_trip_time(self, broker: int, duration: timedelta) -> None:
        """Answer each request of this broker only after `duration`."""
        milliseconds = duration // timedelta(milliseconds=1)
        self._native.call("rd_kafka_mock_broker_set_rtt", ctypes.c_int32(broker), ctypes.c_int(milliseconds))

    def set_leader(self, topic: str, partition: int, broker: int | None) -> None:
        """Move the partition's leadership to `broker`; None leaves it without a leader."""
        self._native.call(
            "rd_kafka_mock_partition_set_leader",
            topic.encode(),
            ctypes.c_int32(partition),
            ctypes.c_int32(-1 if broker is None else broker),
        )

    def push_request_errors(self, api_key: int, errors: Sequence[int]) -> None:
        """Answer the next requests of that kind with these error codes, one each, on any broker."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._native.call_void(
            "rd_kafka_mock_push_request_errors_array",
            ctypes.c_int16(api_key),
            ctypes.c_size_t(len(errors)),
            codes,
        )

    def clear_request_errors(self, api_key: int) -> None:
        """Forget the errors that `push_request_errors` left for that kind of request."""
        self._native.call_void("rd_kafka_mock_clear_request_errors", ctypes.c_int16(api_key))

    @property
    def _native(self) -> "_NativeCluster":
        if isinstance(self._cluster, _PublicCluster):
            raise EmbeddedServiceError("this build of librdkafka cannot simulate faults")
        return self._cluster


class _NativeCluster:
    """The mock cluster through librdkafka's own functions (rdkafka_mock.h)."""

    def __init__(self, library: ctypes.CDLL, brokers: int) -> None:
        self._library = library
        reason = ctypes.create_string_buffer(256)
        configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
        # The client around the cluster connects to nothing, and would write a warning about that.
        library.rd_kafka_conf_set(configuration, b"log_level", b"2", reason, ctypes.c_size_t(ctypes.sizeof(reason)))
        # The handle takes over the configuration, unless it fails.
        handle = library.rd_kafka_new(_PRODUCER, configuration, reason, ctypes.c_size_t(ctypes.sizeof(reason)))
        if not handle:
            library.rd_kafka_conf_destroy(configuration)
            raise EmbeddedServiceError("the embedded Kafka could not be started")
        self._handle = ctypes.c_void_p(handle)
        cluster = library.rd_kafka_mock_cluster_new(self._handle, ctypes.c_int(brokers))
        if not cluster:
            library.rd_kafka_destroy(self._handle)
            raise EmbeddedServiceError(f"the embedded Kafka could not be started with {brokers} brokers")
        self._cluster: ctypes.c_void_p | None = ctypes.c_void_p(cluster)
        # A group's first member would wait 3 s for others, of which there can be none.
        self.call_void("rd_kafka_mock_group_initial_rebalance_delay_ms", ctypes.c_int32(0))
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode("ascii")

    def create_topic(self, name: str, partitions: int) -> None:
        self.call("rd_kafka_mock_topic_create", name.encode(), ctypes.c_int(partitions), ctypes.c_int(1))

    def call(self, function: str, *arguments: Any) -> None:
        """Call a function on the cluster. Raises EmbeddedServiceError with the error code that it returns."""
        if self._cluster is None:
            raise EmbeddedServiceError("the embedded Kafka is closed")
        code: int = getattr(self._library, function)(self._cluster, *arguments)
        if code:
            raise EmbeddedServiceError(f"the embedded Kafka refused {function}: error {code}")

    def call_void(self, function: str, *arguments: Any) -> None:
        """Call a function on the cluster that returns nothing."""
        if self._cluster is None:
            raise EmbeddedServiceError("the embedded Kafka is closed")
        getattr(self._library, function)(self._cluster, *arguments)

    def close(self) -> None:
        if self._cluster is not None:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._handle)
            self._cluster = None


class _PublicCluster:
    """The mock cluster inside a client, through public settings only: no faults, and always 4 partitions."""

    def __init__(self, brokers: int) -> None:
        confluent_kafka = importlib.import_module("confluent_kafka")
        self._client: Any = confluent_kafka.Producer({"test.mock.num.brokers": str(brokers)})
        known = self._client.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in known)

    def create_topic(self, name: str, partitions: int) -> None:
        if self._client is None:
            raise EmbeddedServiceError("the embedded Kafka is closed")
        created = len(self._client.list_topics(name, timeout=10).topics[name].partitions)
        if created != partitions:
            raise EmbeddedServiceError(f"the embedded Kafka made {created} partitions for {name}, not {partitions}")

    def close(self) -> None:
        self._client = None


def _load_library() -> ctypes.CDLL | None:
    """The wheel's librdkafka with its functions declared; None where its mock functions cannot be reached."""
    files = importlib.metadata.files(_DISTRIBUTION) or []
    for file in files:
        if file.name.startswith("librdkafka") and file.suffix != ".py":
            try:
                library = ctypes.CDLL(str(file.locate()))
                _declare(library)
            except (OSError, AttributeError):
                continue
            return library
    return None


def _declare(library: ctypes.CDLL) -> None:
    """Tell ctypes of pointers, which it cuts to 32 bits. Raises AttributeError for a missing function."""
    for function in (
        library.rd_kafka_conf_new,
        library.rd_kafka_new,
        library.rd_kafka_mock_cluster_new,
    ):
        function.restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    for destructor in (
        library.rd_kafka_conf_destroy,
        library.rd_kafka_destroy,
        library.rd_kafka_mock_cluster_destroy,
        library.rd_kafka_mock_group_initial_rebalance_delay_ms,
        library.rd_kafka_mock_push_request_errors_array,
        library.rd_kafka_mock_clear_request_errors,
    ):
        destructor.restype = None
    for returning_error in (
        library.rd_kafka_mock_topic_create,
        library.rd_kafka_mock_broker_set_down,
        library.rd_kafka_mock_broker_set_up,
        library.rd_kafka_mock_broker_set_rtt,
        library.rd_kafka_mock_partition_set_leader,
    ):
        returning_error.restype = ctypes.c_int
