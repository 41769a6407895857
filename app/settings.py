"""All settings, the only reader of the environment.

Each field is one environment variable of the same name in capitals; a `.env` file works too. The page
`docs/configuration.md` and the file `.env.example` are generated from these classes.
Durations are seconds, sizes are bytes.
"""

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.consumer_settings import ConsumerSettings, UsersSettings, consumer_problems
from app.errors import ConfigurationError
from app.setting_fields import Duration, DurationOrZero, Part, Size, Topic
from app.tasks_settings import TasksSettings


class DatabaseSettings(Part):
    """PostgreSQL: `DATABASE_URL`, or the single `POSTGRES_*` parts when it is not set."""

    database_url: SecretStr | None = None
    """Where PostgreSQL is, as `postgresql://user:password@host:port/database`; wins over the parts below."""
    postgres_host: str = "localhost"
    """Host name, address, or the directory of a Unix socket."""
    postgres_port: int = Field(5432, ge=1, le=65535)
    """TCP port."""
    postgres_user: str = "postgres"
    """Role to log in as."""
    postgres_password: SecretStr | None = None
    """Password of that role."""
    postgres_db: str = Field("postgres", validation_alias=AliasChoices("POSTGRES_DB", "POSTGRES_NAME", "postgres_db"))
    """Database; `POSTGRES_NAME` is read too."""
    postgres_sslmode: Literal["disable", "require", "verify-ca", "verify-full"] = "disable"
    """TLS to PostgreSQL. There is no `prefer`: it would fall back to plain text without a word."""
    postgres_sslrootcert: Path | None = None
    """File with the certificate authority for `verify-ca` and `verify-full`."""
    connect_timeout: Duration = timedelta(seconds=2)
    """How long one attempt to connect to PostgreSQL may take."""
    lock_timeout: Duration = timedelta(seconds=2)
    """How long a statement of a request waits for a lock."""
    message_max_bytes: Size = 900_000
    """Largest message (key, headers and payload) that a transaction may add; `outbox migrate` tells the database."""

    @property
    def database(self) -> URL:
        """The database as a SQLAlchemy URL for asyncpg, password included."""
        if self.database_url is not None:
            url = make_url(self.database_url.get_secret_value())
            return url.set(drivername="postgresql+asyncpg").difference_update_query(["sslmode", "sslrootcert"])
        password = self.postgres_password.get_secret_value() if self.postgres_password else None
        return URL.create(
            "postgresql+asyncpg",
            username=self.postgres_user,
            password=password,
            host=self.postgres_host,
            port=self.postgres_port,
            database=self.postgres_db,
        )

    @property
    def database_tls(self) -> tuple[str, str | None]:
        """TLS mode and root certificate; `sslmode` and `sslrootcert` in `DATABASE_URL` win, as in libpq."""
        query = make_url(self.database_url.get_secret_value()).query if self.database_url is not None else {}
        mode = query.get("sslmode", self.postgres_sslmode)
        root = query.get("sslrootcert", self.postgres_sslrootcert)
        return str(mode), None if root is None else str(root)


class KafkaSettings(Part):
    """Kafka: how to reach it."""

    kafka_bootstrap_servers: str = Field("localhost:9092", min_length=1)
    """Brokers to start from, as `host:port,host:port`."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers; in production `SASL_SSL` or `SSL`."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """Only read with a `SASL_*` protocol."""
    kafka_sasl_username: str | None = None
    """User for SASL."""
    kafka_sasl_password: SecretStr | None = None
    """Password for SASL."""
    kafka_ssl_cafile: Path | None = None
    """Certificate authority of the brokers; the system's when not set."""
    kafka_ssl_certfile: Path | None = None
    """Our client certificate, for mutual TLS."""
    kafka_ssl_keyfile: Path | None = None
    """Key of the client certificate."""
    kafka_compression: Literal["none", "zstd"] = "zstd"
    """Compression of batches of 1 KiB or more."""
    kafka_request_timeout: Duration = timedelta(seconds=5)
    """How long one request to a broker may take before it is tried again."""
    kafka_check_crcs: bool = True
    """Check the checksums of what is fetched; the embedded Kafka writes some without."""
    topic_partitions: int = Field(6, ge=1)
    """Partitions of topics that `outbox topics ensure` creates."""
    topic_replication_factor: int = Field(1, ge=1)
    """Copies of each partition of topics that `outbox topics ensure` creates; 3 in production."""
    applications_topic: Topic = "applications.events"
    """Where events about applications go."""
    event_source: str = Field("/outbox-service", min_length=1, max_length=200)
    """CloudEvents `source` of our events."""


class ApiSettings(Part):
    """The HTTP API."""

    api_host: str = "127.0.0.1"
    """Address to listen on."""
    api_port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    api_pool_size: int = Field(10, ge=1)
    """Most connections to PostgreSQL that requests of one process use."""
    api_database_deadline: Duration = timedelta(seconds=2.5)
    """How long a request may spend on the database, waiting for a connection included; then it is answered with 503."""
    max_body_size: Size = 65_536
    """Largest request body; a longer one is answered with 413."""
    api_stop_deadline: Duration = timedelta(seconds=10)
    """How long requests under way may take after the process was told to stop."""
    user_name_max_length: int = Field(200, ge=1, le=200)
    """Longest `user_name`, in characters. At most 200, because an entry of the index on it has at most 2,704 bytes."""
    description_max_length: Size = 10_000
    """Longest `description`, in characters."""
    page_size_max: Size = 100
    """Largest `size` of a page."""
    search_deadline: Duration = timedelta(seconds=1)
    """How long the database may search for a part or the beginning of a name; then the search is refused."""
    message_wait_max: Duration = timedelta(seconds=8)
    """How long `GET /messages/{message_id}` waits at most for a message to be delivered, when it is asked to."""
    api_keys: SecretStr | None = None
    """Who may call, as `NAME:read+write:SHA256,…` (`outbox api-key` makes one); everybody when not set."""
    rate_limit_writes: int = Field(20, ge=0)
    """Most POSTs of a visitor (its API key, else its address) in a window; 0 is no limit."""
    rate_limit_reads: int = Field(300, ge=0)
    """Most GETs of a visitor in a window; 0 is no limit."""
    rate_limit_window: Duration = timedelta(seconds=60)
    """Length of a window, in whole seconds."""
    rate_limit_store: SecretStr | None = None
    """Where visitors are counted, as `async+redis://host:port/0`; each process counts for itself when not set."""
    rate_limit_store_timeout: Duration = timedelta(milliseconds=250)
    """How long a request waits for that store; then it goes on and is not counted."""
    trusted_proxies: str = ""
    """Addresses or networks of proxies whose `X-Forwarded-For` is believed, as `10.0.0.7,10.1.0.0/16`."""
    allowed_hosts: str = ""
    """Names that the header `Host` may have, as `api.example.org,localhost`; any when empty."""
    docs_enabled: bool = True
    """Serve `/docs` and `/openapi.json`."""
    api_concurrency: Size = 256
    """Most requests that one process works on at the same time; more are answered with 503 at once."""
    backpressure_owed: int = Field(0, ge=0)
    """Refuse writes (503) while more messages than this are owed to Kafka; 0 is no limit."""
    backpressure_age: DurationOrZero = timedelta(0)
    """Refuse writes (503) while the oldest owed message is older than this; 0 is no limit."""
    idempotency_ttl: Duration = timedelta(hours=24)
    """How long the answer to a request with an `Idempotency-Key` is kept for its repeats; then the key is new."""
    idempotency_key_required: bool = False
    """Refuse a POST without an `Idempotency-Key` (400)."""


class RelaySettings(Part):
    """The relay, which moves owed messages to Kafka."""

    relay_slots: int = Field(4, ge=1, le=32)
    """Delivering coroutines of a process; each has one connection to PostgreSQL of its own."""
    relay_batch_messages: Size = 4000
    """Most messages of one lane that a slot takes at a time under load."""
    relay_batch_bytes: Size = 8 * 1024 * 1024
    """Most payload bytes that a slot takes at a time; one larger message still goes alone."""
    relay_light_messages: Size = 64
    """Messages of each lane that a slot may take at least while it serves all lanes at once."""
    relay_poll_min: Duration = timedelta(milliseconds=1)
    """Shortest pause between two looks at an empty outbox."""
    relay_poll_max: Duration = timedelta(milliseconds=50)
    """Longest pause between two looks at an empty outbox. A busy relay looks for what lay parked as often."""
    publish_deadline: Duration = timedelta(seconds=20)
    """How long a slot waits for Kafka's answers to a batch. Kafka's own fail-over takes 8 to 12 s."""
    relay_idle_timeout: Duration = timedelta(seconds=30)
    """After this long without a word from a slot, PostgreSQL ends its session and frees its lanes."""
    relay_statement_timeout: Duration = timedelta(seconds=20)
    """How long one statement of a slot may take."""
    relay_transaction_limit: Duration = timedelta(seconds=60)
    """Sessions of relays whose transaction is older than this are ended by any relay's housekeeping."""
    relay_probe_min: Duration = timedelta(seconds=0.5)
    """First pause before a broker or a topic that failed is tried again; it doubles."""
    relay_probe_max: Duration = timedelta(seconds=10)
    """Longest pause before a broker or a topic that failed is tried again."""
    relay_floor_step: Size = 1000
    """A lane's row is written when its floor moved by this many ids, or after `RELAY_FLOOR_INTERVAL`."""
    relay_floor_interval: Duration = timedelta(seconds=1)
    """See `RELAY_FLOOR_STEP`."""
    relay_scan_interval: Duration = timedelta(minutes=5)
    """How often housekeeping looks for messages below a floor; there must never be one."""
    relay_watch_interval: Duration = timedelta(seconds=5)
    """How often the age of the oldest owed message and other gauges are measured."""
    relay_host: str = "127.0.0.1"
    """Address on which a relay process serves `/livez`, `/readyz` and `/metrics`."""
    relay_port: int = Field(9100, ge=0, le=65535)
    """Port for them; 0 takes a free one."""
    relay_stalled_after: Duration = timedelta(seconds=45)
    """A relay whose slots finished no round for this long is not ready."""
    refusals_to_close: Size = 10
    """A topic that refuses this many messages in a row, without a success, is closed instead."""
    receipts: bool = True
    """Keep a receipt (topic, partition, offset, fingerprint) of each delivered message."""
    receipts_retention: Duration = timedelta(days=7)
    """How long receipts are kept; whole days are dropped."""
    dead_letters_retention: Duration = timedelta(days=30)
    """How long dead letters that were retried or discarded are kept."""


class Settings(
    DatabaseSettings, KafkaSettings, ApiSettings, RelaySettings, ConsumerSettings, UsersSettings, TasksSettings
):
    """Everything. Immutable; checked as a whole when it is read."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        populate_by_name=True,
        validate_default=True,
    )

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto` writes JSON unless the output is a terminal."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        rebuild = timedelta(seconds=7)  # measured worst case of getting rid of a producer and starting another
        problems = (
            (
                self.publish_deadline + rebuild > self.relay_idle_timeout,
                (
                    f"RELAY_IDLE_TIMEOUT must be at least PUBLISH_DEADLINE + {rebuild.seconds} s, or slots are ended "
                    "that still wait for Kafka: raise it, or lower PUBLISH_DEADLINE"
                ),
            ),
            (
                self.kafka_request_timeout >= self.publish_deadline,
                "KAFKA_REQUEST_TIMEOUT must be shorter than PUBLISH_DEADLINE, so that a request can be tried again",
            ),
            (
                self.relay_idle_timeout >= self.relay_transaction_limit,
                "RELAY_TRANSACTION_LIMIT must be longer than RELAY_IDLE_TIMEOUT, or healthy slots are ended",
            ),
            (
                self.publish_deadline >= self.relay_stalled_after,
                "RELAY_STALLED_AFTER must be longer than PUBLISH_DEADLINE, or a waiting relay is called stalled",
            ),
            (
                self.relay_poll_min > self.relay_poll_max,
                "RELAY_POLL_MIN must not be longer than RELAY_POLL_MAX",
            ),
            (
                self.relay_probe_min > self.relay_probe_max,
                "RELAY_PROBE_MIN must not be longer than RELAY_PROBE_MAX",
            ),
            (
                self.receipts_retention < timedelta(days=1),
                "RECEIPTS_RETENTION must be at least one day (86400): receipts are dropped by whole days",
            ),
            (
                self.kafka_security_protocol.startswith("SASL")
                and (self.kafka_sasl_username is None or self.kafka_sasl_password is None),
                "KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD are needed with KAFKA_SECURITY_PROTOCOL=SASL_*",
            ),
        )
        for wrong, advice in (*problems, *consumer_problems(self, self)):
            if wrong:
                raise ValueError(advice)
        try:
            mode, root = self.database_tls
        except (ArgumentError, ValueError):
            raise ValueError("DATABASE_URL must look like postgresql://user:password@host:5432/database") from None
        if mode not in ("disable", "require", "verify-ca", "verify-full"):
            raise ValueError("sslmode in DATABASE_URL must be disable, require, verify-ca or verify-full")
        if mode.startswith("verify") and root is None:
            raise ValueError("POSTGRES_SSLROOTCERT is needed with POSTGRES_SSLMODE=verify-*")
        return self


def load(**overrides: object) -> Settings:
    """Read the environment. Raises ConfigurationError: one line that names the setting, never its value."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # each field checks its own type
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"{name}: {message}" if name else message) from None
