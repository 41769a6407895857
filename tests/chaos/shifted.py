"""A command of the service in a process whose clock is wrong: `python -m tests.chaos.shifted SECONDS COMMAND …`.

Wall clocks only, and Python's only: a monotonic clock does not jump in real life either, and PostgreSQL and Kafka keep
their own time, which is the point.
"""

import sys
from datetime import UTC, datetime, timedelta

import time_machine

from app.cli import main

if __name__ == "__main__":
    wrong_by = timedelta(seconds=float(sys.argv.pop(1)))
    time_machine.travel(datetime.now(UTC) + wrong_by, tick=True).start()
    main()
