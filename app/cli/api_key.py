"""API keys: made here, kept nowhere."""

from typing import Annotated

import typer

from app.cli import printing

app = typer.Typer()


@app.command(epilog="Example: outbox api-key mobile --scope read --scope write")
def api_key(
    name: Annotated[str, typer.Argument(help="Who will use it; limits and Idempotency-Keys go by this name.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="What it allows: read, write, admin; read and write if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print both as JSON.")] = False,
) -> None:
    """Make an API key: what the caller gets, and what goes into API_KEYS. It is shown once and kept nowhere."""
    from pydantic import SecretStr

    from app.api import callers

    key, digest = callers.create()
    entry = f"{name}:{'+'.join(scope or ('read', 'write'))}:{digest}"
    callers.parse(SecretStr(entry))
    if as_json:
        print(printing.as_json({"key": key, "entry": entry}))
    else:
        print(f"for the caller:  {key}")
        print(f"for API_KEYS:    {entry}")
