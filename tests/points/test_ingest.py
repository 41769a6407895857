"""Every point of a batch of inputs × every fault that a worker survives."""

import pytest

from tests.failpoints import Action, Fault
from tests.points import ingesting
from tests.points.conftest import Everywhere
from tests.services.kafka import Kafka


@pytest.mark.parametrize("action", [Action.RAISE, Action.CANCEL, Action.SLEEP])
async def test_each_input_has_one_effect(everywhere: Everywhere, action: Action) -> None:
    async def trial(point: str, database_url: str, kafka: Kafka) -> None:
        fault = Fault(point, action, seconds=ingesting.SECONDS)
        stopping = point.startswith("shutdown.")
        await (ingesting.meet_while_stopping if stopping else ingesting.meet)(fault, database_url, kafka)

    await everywhere(ingesting.POINTS, trial)
