"""The service's own auditor, asked about the same run: two judges that know nothing of each other must agree."""

from importlib import import_module
from importlib.util import find_spec

from tests.chaos.judge import Verdict
from tests.chaos.world import World


async def audited(world: World) -> list[Verdict]:
    """What `outbox verify` says; nothing where it is not part of the installation."""
    if find_spec("app.audit") is None:
        return []
    intakes = import_module("app.cli.verify").intakes_of(world.settings)
    report = await import_module("app.audit").audit(world.settings, None, intakes=intakes)
    verdict = Verdict("AUDIT", "`outbox verify`, which knows nothing of the load, finds nothing wrong", report.records)
    verdict.violations += [
        f"{finding.count} {finding.kind}: {finding.examples[:1]}" for finding in report.findings if finding.violation
    ]
    verdict.check(report.standing.owed == 0, f"{report.standing.owed} messages are owed")
    return [verdict]
