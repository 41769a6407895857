"""Every point of a call × every fault that a process of tasks survives."""

from datetime import timedelta

import pytest

from app.tasks import queue
from tests.failpoints import Action, Fault
from tests.points import asking
from tests.points.conftest import Everywhere
from tests.services.kafka import Kafka


@pytest.mark.parametrize("action", [Action.RAISE, Action.CANCEL, Action.SLEEP])
async def test_a_task_is_answered_once(everywhere: Everywhere, monkeypatch: pytest.MonkeyPatch, action: Action) -> None:
    monkeypatch.setattr(queue, "_SLOT_MARGIN", timedelta(seconds=0.3))  # or each lost lease would take seconds

    async def trial(point: str, database_url: str, _kafka: Kafka) -> None:
        await asking.meet(Fault(point, action, seconds=asking.SECONDS), database_url)

    await everywhere(asking.POINTS, trial)
