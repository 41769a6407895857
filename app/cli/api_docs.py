"""The pages that describe the API, generated: `docs/openapi.json` and `docs/errors.md`."""

import typer

_INTRODUCTION = """# Errors

Every answer that is not a success is a problem (RFC 9457, `application/problem+json`). Its `type` is a path of this
service, which gives the advice below. `reference` is the request's id, as in the header `X-Request-Id` and in the log;
`errors` names fields, never what was sent.

A 2xx means committed. After a time-out, a lost connection or a 5xx the effect is unknown, unless the problem says that
nothing was done; repeating the request with the same `Idempotency-Key` is always safe.
"""

app = typer.Typer()
group = typer.Typer(no_args_is_help=True)
app.add_typer(group, name="docs", help="Print generated pages about the API.")


@group.command(epilog="Example: outbox docs openapi > docs/openapi.json")
def openapi() -> None:
    """Print the OpenAPI document of the API, as these settings make it."""
    print(openapi_page(), end="")


@group.command(epilog="Example: outbox docs errors > docs/errors.md")
def errors() -> None:
    """Print all problems that the API answers with."""
    print(errors_page(), end="")


def openapi_page() -> str:
    """The document as JSON, in the order in which the API gives it."""
    import json

    from app.main import create_app
    from app.settings import load

    return json.dumps(create_app(load()).openapi(), indent=2, ensure_ascii=False) + "\n"


def errors_page() -> str:
    """The page to which the `type` of each problem leads a reader."""
    from app.api.kinds import KINDS

    parts = [_INTRODUCTION]
    parts += [
        f"\n## {kind.name}\n\n`{kind.status.value}` · `{kind.type}`\n\n{kind.title}\n\n{kind.advice}\n"
        for kind in KINDS.values()
    ]
    return "".join(parts)
