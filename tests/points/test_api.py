"""Every point of a request × every fault that the API's process survives."""

import pytest

from tests.failpoints import Action, Fault
from tests.points import answering


@pytest.mark.parametrize("action", [Action.RAISE, Action.CANCEL, Action.SLEEP])
@pytest.mark.parametrize("point", answering.POINTS)
async def test_what_a_client_repeats_is_done_once(database_url: str, point: str, action: Action) -> None:
    await answering.meet(Fault(point, action, seconds=answering.SECONDS), database_url)
