"""Every point of a request × every fault that the API's process survives."""

import pytest

from tests.failpoints import Action, Fault
from tests.points import answering
from tests.points.conftest import Everywhere
from tests.services.kafka import Kafka


@pytest.mark.parametrize("action", [Action.RAISE, Action.CANCEL, Action.SLEEP])
async def test_what_a_client_repeats_is_done_once(everywhere: Everywhere, action: Action) -> None:
    async def trial(point: str, database_url: str, _kafka: Kafka) -> None:
        await answering.meet(Fault(point, action, seconds=answering.SECONDS), database_url)

    await everywhere(answering.POINTS, trial)
