"""The settings of consumers; part of `app.settings`, which reads them."""

from datetime import timedelta
from typing import Literal

from pydantic import Field

from app.setting_fields import Duration, Part, Size, Topic


class ConsumerSettings(Part):
    """The consumers of a worker process."""

    consumer_batch_records: Size = 500
    """Most records that are handled in one transaction."""
    consumer_max_attempts: Size = 3
    """A record that kills, hangs or fails its consumer this many times becomes a dead letter."""
    consumer_database_deadline: Duration = timedelta(seconds=10)
    """How long one transaction of a consumer may take."""
    consumer_decode_deadline: Duration = timedelta(seconds=10)
    """How long decoding one large record may take."""
    consumer_hang_limit: Duration = timedelta(seconds=30)
    """A worker whose event loop stands still for this long ends itself, so that it is started again."""
    consumer_stalled_after: Duration = timedelta(seconds=45)
    """A consumer that got no answer to a fetch for this long is not ready, and joins its group anew."""
    consumer_drain_deadline: Duration = timedelta(seconds=15)
    """How long the batch in hand may take when the process stops or partitions go to another consumer."""
    consumer_session_timeout: Duration = timedelta(seconds=10)
    """After this long without a sign of life the brokers give the partitions to another consumer."""
    consumer_fetch_wait: Duration = timedelta(seconds=0.5)
    """How long a broker waits for records before it says that there are none."""
    inbox_retention: Duration = timedelta(days=14)
    """How long ids are remembered. Longer than any input topic keeps its records; older ones are refused (TOO_OLD)."""
    worker_host: str = "127.0.0.1"
    """Address on which a worker process serves `/livez`, `/readyz` and `/metrics`."""
    worker_port: int = Field(9200, ge=0, le=65535)
    """Port for them; 0 takes a free one."""


class UsersSettings(Part):
    """Users, who are requested and answered in XML over Kafka."""

    users_requests_topic: Topic = "users.requests"
    """Where requests come from."""
    users_responses_topic: Topic = "users.responses"
    """Where replies go, unless a request asks for one of `USERS_REPLY_TOPICS`."""
    users_dead_letters_topic: Topic = "users.requests.dlq"
    """Where requests go that could not be read."""
    users_reply_topics: str = Field("", pattern=r"^([a-zA-Z0-9._-]{1,249}(,[a-zA-Z0-9._-]{1,249})*)?$")
    """Other topics that a request may ask for with `kafka_replyTopic`, separated by commas."""
    users_group: str = Field("users", min_length=1, max_length=200)
    """Consumer group; the inbox knows repeats per group."""
    users_same_email: Literal["reject", "return", "allow"] = "reject"
    """What a request for an email that is known already gets: FAILED, the known user's id, or a user of its own."""
    users_correlation_is_unique: bool = False
    """Two requests with one correlation id are one request sent twice. Only where all who send keep to that."""
    users_reply_to_unreadable: bool = True
    """Answer also requests that cannot be read, with FAILED alone."""
    users_max_bytes: int = Field(262_144, gt=0, le=1_048_576)
    """Largest request; a larger one is not read."""
    users_encodings: str = Field("utf-8", pattern=r"^(utf-8|utf-16|windows-1251)(,(utf-8|utf-16|windows-1251))*$")
    """Encodings of requests that are accepted: `utf-8`, `utf-16`, `windows-1251`, separated by commas."""


def consumer_problems(consumers: ConsumerSettings, users: UsersSettings) -> tuple[tuple[bool, str], ...]:
    """What does not fit together, each with the way out."""
    return (
        (
            consumers.consumer_database_deadline > consumers.consumer_drain_deadline,
            "CONSUMER_DRAIN_DEADLINE must be at least CONSUMER_DATABASE_DEADLINE, or batches are given up in vain",
        ),
        (
            users.users_dead_letters_topic in (users.users_requests_topic, users.users_responses_topic)
            or users.users_responses_topic == users.users_requests_topic
            or users.users_requests_topic in users.users_reply_topics.split(","),
            "USERS_REQUESTS_TOPIC must not be a topic that replies or dead letters go to: they would be requests",
        ),
    )
