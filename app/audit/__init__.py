"""The auditor: compares what PostgreSQL holds with what stands in the topics. Reads, and changes nothing."""

from app.audit.auditor import audit
from app.audit.report import Example, Finding, IntakeCounts, Kind, Report, Standing, TopicCounts
from app.audit.scope import Intake, Progress, Scope

__all__ = [
    "Example",
    "Finding",
    "Intake",
    "IntakeCounts",
    "Kind",
    "Progress",
    "Report",
    "Scope",
    "Standing",
    "TopicCounts",
    "audit",
]
