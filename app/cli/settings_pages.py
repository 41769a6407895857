"""The pages about settings, generated from the classes, so that they cannot say something else."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MaxLen
from pydantic import HttpUrl, SecretStr
from pydantic.fields import FieldInfo

from app.consumer_settings import ConsumerSettings, UsersSettings
from app.settings import ApiSettings, DatabaseSettings, KafkaSettings, RelaySettings, Settings
from app.tasks_settings import TasksSettings

_PARTS = (DatabaseSettings, KafkaSettings, ApiSettings, RelaySettings, ConsumerSettings, UsersSettings, TasksSettings)

_PREFACE = """\
# Configuration

This page is generated: `make docs` writes it anew.

Each setting is an environment variable; a file `.env` in the working directory works too, and the environment wins.
An empty variable counts as not set. Durations are in seconds (`2.5`), sizes in bytes. What is wrong, or does not fit
another setting, is said at the start in one line, with exit code 2, and nothing is started.
"""

_ENV_PREFACE = """\
# All settings with their defaults; docs/configuration.md says more. Copy this file to `.env` and take away the `#` of
# those that should differ. Durations are in seconds, sizes in bytes.
"""


def markdown() -> str:
    """`docs/configuration.md`."""
    pages = [_PREFACE]
    for title, fields in _sections():
        rows = [
            f"| `{name.upper()}` | {_default(field) or '–'} | {_kind(field)} | {_sentence(field)} |"
            for name, field in fields.items()
        ]
        pages.append(f"## {title}\n\n| setting | default | values | meaning |\n|---|---|---|---|\n" + "\n".join(rows))
    return "\n".join(page.rstrip() + "\n" for page in pages)


def env() -> str:
    """`.env.example`."""
    pages = [_ENV_PREFACE]
    for title, fields in _sections():
        lines = [f"# --- {title}"]
        for name, field in fields.items():
            lines += ["", f"# {_sentence(field)}", f"#{name.upper()}={_plain_default(field)}"]
        pages.append("\n".join(lines))
    return "\n".join(page.rstrip() + "\n" for page in pages)


def _sections() -> Iterator[tuple[str, Mapping[str, FieldInfo]]]:
    """Headings and the fields below them: those of each part, then what belongs to none."""
    inherited = {name for part in _PARTS for name in part.model_fields}
    for part in _PARTS:
        yield (part.__doc__ or "").rstrip("."), part.model_fields
    rest = {name: field for name, field in Settings.model_fields.items() if name not in inherited}
    yield "Logs", rest


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split()).replace("|", "\\|")


def _plain_default(field: FieldInfo) -> str:
    match field.default:
        case None:
            return ""
        case timedelta() as duration:
            seconds = duration.total_seconds()
            return str(int(seconds)) if seconds.is_integer() else str(seconds)
        case bool() as switch:
            return str(switch).lower()
        case default:
            return str(default)


def _default(field: FieldInfo) -> str:
    default = _plain_default(field)
    return f"`{default}`" if default else ""


def _kind(field: FieldInfo) -> str:
    """What a value looks like, in words."""
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    words = {
        timedelta: "seconds",
        bool: "`true` or `false`",
        SecretStr: "text, kept secret",
        Path: "path of a file",
        int: "whole number",
        str: "text",
        float: "number",
        HttpUrl: "address",
    }
    return words[annotation] + "".join(f", {limit}" for limit in _limits(field))


def _without_none(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(annotation) else annotation


def _limits(field: FieldInfo) -> Iterator[str]:
    for limit in field.metadata:
        match limit:
            case Gt(gt=bound):
                yield f"more than {bound}"
            case Ge(ge=bound):
                yield f"at least {bound}"
            case Le(le=bound):
                yield f"at most {bound}"
            case MaxLen(max_length=most):
                yield f"at most {most} characters"
