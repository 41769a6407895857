"""Every point of a delivery × every fault that a process survives."""

import pytest

from tests.failpoints import Action, Fault
from tests.points import relaying
from tests.points.conftest import Everywhere
from tests.services.kafka import Kafka


@pytest.mark.parametrize("action", [Action.RAISE, Action.CANCEL, Action.SLEEP])
async def test_nothing_is_lost_and_nothing_overtakes(everywhere: Everywhere, action: Action) -> None:
    async def trial(point: str, database_url: str, kafka: Kafka) -> None:
        fault = Fault(point, action, seconds=relaying.SECONDS)
        stopping = point.startswith("shutdown.")
        await (relaying.meet_while_stopping if stopping else relaying.meet)(fault, database_url, kafka)

    await everywhere(relaying.POINTS, trial)
