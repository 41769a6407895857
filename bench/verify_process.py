"""An auditor in a process of its own: for each line of its input, audits the topic of its argument once."""

import json
import sys
import time

import uvloop

from app.audit import Scope, audit
from app.settings import load


def _run(topic: str) -> None:
    settings = load(_env_file=None)
    for _ in sys.stdin:
        used = time.process_time()
        report = uvloop.run(audit(settings, Scope(topics=(topic,))))
        answer = [report.records, report.seconds, time.process_time() - used, len(report.findings)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _run(sys.argv[1])
