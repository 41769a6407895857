"""What a member of a group handles next: what the client library fetched, or what is there where it cannot go on."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from app import lifecycle, log, metrics
from app.kafka import unreadable
from app.kafka.client import milliseconds, to_input
from app.kafka.input import Input
from app.kafka.offsets import Offsets
from app.settings import Settings

logger = log.get(__name__)

Fetched: TypeAlias = Mapping[TopicPartition, Sequence[Input]]

TURN = timedelta(seconds=1)
"""The loop comes round at least this often, whatever the brokers do."""
_LOOK = timedelta(seconds=30)
_OF_RECORDS = (CorruptRecordException, UnsupportedCodecError)


class Fetcher:
    """The fetching of one member. It clears `idle` when it has given out records."""

    def __init__(
        self, kafka: AIOKafkaConsumer, offsets: Offsets, settings: Settings, *, consumer: str, idle: asyncio.Event
    ) -> None:
        self._kafka = kafka
        self._offsets = offsets
        self._settings = settings
        self._consumer = consumer
        self._idle = idle

    async def next(self) -> Fetched:
        """Records that come next; none when there are none yet, or when first something had to be put right.

        Raises KafkaError, OSError or TimeoutError when the brokers do not serve us, BrokerUnavailable when none answer.
        """
        try:
            found = await self._kafka.getmany(
                timeout_ms=milliseconds(TURN), max_records=self._settings.consumer_batch_records
            )
        except NoOffsetForPartitionError as error:
            await self._offsets.begin(error.args[0])
        except OffsetOutOfRangeError as error:
            await self._offsets.meet_gaps(error.args[0])
        except Exception as error:
            # Whatever comes up at a record is raised as it is; of the brokers the library tells by its own errors.
            if isinstance(error, KafkaError) and not isinstance(error, _OF_RECORDS):
                raise
            return await lifecycle.within(_LOOK, self._read_around(error))
        else:
            return self._in_hand({tp: [to_input(record) for record in records] for tp, records in found.items()})
        return {}

    def _in_hand(self, fetched: Fetched) -> Fetched:
        # Without an await since they were taken: a revocation must find these records in hand, or it would not wait.
        if fetched:
            self._idle.clear()
        return fetched

    async def _read_around(self, error: Exception) -> Fetched:
        """What comes next where the library cannot read on. Raises `error` if it can, everywhere."""
        # Without its text, which may quote the record.
        logger.warning("fetch.unreadable", consumer=self._consumer, error=type(error).__name__)
        metrics.consumer_failures.labels(self._consumer, "unreadable").inc()
        positions = await self._offsets.rewind()
        found = await unreadable.look(self._settings, positions)
        if not found:
            raise error
        fetched = {}
        for tp in found.keys() & self._kafka.assignment():
            match found[tp]:
                case unreadable.Portion(inputs, following):
                    self._kafka.seek(tp, following)
                    fetched[tp] = inputs
                case corrupt:
                    self._offsets.meet_gap(tp, positions[tp], corrupt.following)
        return self._in_hand(fetched)
