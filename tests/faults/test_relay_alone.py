"""A relay that is cut off, frozen or hurt inside: others go on, and it comes back by itself."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import make_url

from relay.loop import Relay
from relay.publisher import KafkaPublisher
from tests.armed import child
from tests.engine import connect, empty
from tests.failpoints import Action, Fault
from tests.faults.watching import Watch
from tests.judge import verify
from tests.ledger import Ledger
from tests.relaying import HURRIED, hurried, no_lost_errors, running
from tests.services.fixtures import Proxies
from tests.services.kafka import Kafka
from tests.waiting import until

pytestmark = [pytest.mark.real_kafka, pytest.mark.slow]

_SLOTS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'outbox-relay'"
_TAKEN_OVER = timedelta(seconds=HURRIED["relay_idle_timeout"] + 10)
_AT_ONCE = timedelta(seconds=5)
