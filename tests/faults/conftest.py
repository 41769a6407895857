from collections.abc import AsyncIterator

import pytest

from tests.engine import connect
from tests.faults.watching import Watch


@pytest.fixture
async def watch(database_url: str) -> AsyncIterator[Watch]:
    """The test's only writer, and its eyes."""
    async with connect(database_url) as writer, connect(database_url) as reader:
        yield Watch(writer, reader)
