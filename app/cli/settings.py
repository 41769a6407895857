"""`outbox settings …`: the generated pages about settings."""

import typer

app = typer.Typer(name="settings", help="Print the pages about settings, for the documentation.", no_args_is_help=True)


@app.command(epilog="Example: outbox settings markdown > docs/configuration.md")
def markdown() -> None:
    """Print all settings, with their defaults, as a page in Markdown."""
    from app.cli import settings_pages

    print(settings_pages.markdown(), end="")


@app.command(epilog="Example: outbox settings env > .env.example")
def env() -> None:
    """Print all settings as an environment file in which nothing is set."""
    from app.cli import settings_pages

    print(settings_pages.env(), end="")
