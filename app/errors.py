"""All errors that this project raises, as one tree.

OutboxError
├── ConfigurationError          a setting is wrong or does not fit another; nothing was started (exit 2)
├── EmbeddedServiceError        an embedded PostgreSQL or Kafka could not be started or used (exit 1)
├── SchemaError                 the database is not at the migration this code was written for
├── InvalidMessage              a message that must not enter the outbox (too large, no topic, …)
├── NotFound                    the thing named does not exist
├── Conflict                    the thing named is not in a state that allows this
├── TooSlow                     what was asked for takes longer to find than it may
└── Unavailable                 try again later; says when
    ├── DatabaseUnavailable     PostgreSQL is down, too slow, full, or refuses writes
    └── BrokerUnavailable       no broker of Kafka answers

Texts of these errors may be shown to callers and written to logs: they carry names, codes and
limits, never payloads, bound parameters or the text of a foreign exception.
Foreign exceptions are translated once, at the seam: the database's in `app.db`, Kafka's in
`relay.publisher` and `app.kafka`.
"""

from datetime import timedelta


class OutboxError(Exception):
    """Anything that went wrong here, as opposed to in a library."""


class ConfigurationError(OutboxError):
    """A setting is wrong, or does not fit another one. The text names it and says what to change."""


class EmbeddedServiceError(OutboxError):
    """An embedded service could not be started or used. The text says what to do about it."""


class SchemaError(OutboxError):
    """The database's schema is not the one this code was written for."""


class InvalidMessage(OutboxError):
    """A message that must not enter the outbox."""


class NotFound(OutboxError):
    """The thing named does not exist."""


class Conflict(OutboxError):
    """The thing named exists, but is not in a state that allows what was asked."""


class TooSlow(OutboxError):
    """What was asked for takes longer to find than it may. Asking for less helps, repeating does not."""


class Unavailable(OutboxError):
    """Nothing is wrong with the request; the same request may succeed after `retry_after`."""

    def __init__(self, message: str, *, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DatabaseUnavailable(Unavailable):
    """PostgreSQL did not do it. Whether a transaction under way was committed is unknown."""


class BrokerUnavailable(Unavailable):
    """No broker of Kafka answers."""
