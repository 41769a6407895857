"""`outbox dead-letters …`: look at messages that Kafka refused, and decide on them."""

import base64
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from app.cli import printing, running
from app.cli.topics import AsJson
from app.cli.who import By, name_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncSession

    from app.outbox.dead_letters import DeadLetter
    from app.outbox.operators import Letter, Which

app = typer.Typer(
    name="dead-letters",
    help="Look at messages that Kafka refused for what they are, and decide on them.",
    no_args_is_help=True,
)

_STATES = ("dead", "retried", "discarded")

MessageIds = Annotated[list[UUID] | None, typer.Argument(metavar="MESSAGE_ID", help="Message ids.")]
OfTopic = Annotated[str | None, typer.Option("--topic", help="All undecided ones of this topic.")]
All = Annotated[bool, typer.Option("--all", help="All undecided ones.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which; change nothing.")]


@app.command("list", epilog="Example: outbox dead-letters list --topic applications.events --state dead")
def list_letters(
    topic: Annotated[str | None, typer.Option(help="Only of this topic.")] = None,
    state: Annotated[str | None, typer.Option(help="Only in this state: dead (undecided), retried, discarded.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most to show, the last refused first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show dead letters, without their payloads, and how many messages wait behind each."""
    if state is not None and state not in _STATES:
        raise typer.BadParameter(f"{state!r} is not one of {', '.join(_STATES)}", param_hint="--state")
    from app.outbox import dead_letters

    found = running.in_database(
        running.settings(),
        lambda session: dead_letters.list_dead_letters(session, topic=topic, state=state, limit=limit),
    )
    if as_json:
        print(printing.as_json(found))
        return
    columns = ("message id", "topic", "key", "type", "state", "reason", "refusals", "refused at", "waiting behind it")
    rows = (
        (
            letter.message_id,
            letter.topic,
            printing.as_text(letter.key),
            letter.type,
            letter.state,
            letter.reason,
            letter.refusals,
            printing.moment(letter.refused_at),
            letter.followers,
        )
        for letter in found
    )
    printing.console().print(printing.table(columns, rows))
    if len(found) == limit:
        printing.note(f"the last {limit}; --limit shows more")


@app.command(epilog="Example: outbox dead-letters show 01a1fd91-0ebb-72e8-9127-0fa14f122650 --payload")
def show(
    message_id: Annotated[UUID, typer.Argument(help="The message's id (`ce_id`).")],
    payload: Annotated[bool, typer.Option("--payload", help="Headers and payload too: may be personal data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one dead letter."""
    from app.outbox import dead_letters

    async def work(session: "AsyncSession") -> "tuple[DeadLetter, dead_letters.Content | None]":
        letter = await dead_letters.get_dead_letter(session, message_id)
        return letter, await dead_letters.get_content(session, message_id) if payload else None

    letter, content = running.in_database(running.settings(), work)
    known = {name: getattr(letter, name) for name in letter.__slots__}
    if content is not None:
        known["headers"] = [[name, printing.as_text(value)] for name, value in content.headers]
        # Base64, because JSON has no bytes and a payload may be any.
        known["payload_base64"] = None if content.payload is None else base64.b64encode(content.payload).decode()
    if as_json:
        print(printing.as_json(known))
        return
    for name, value in known.items():
        if name not in {"headers", "payload_base64"}:
            print(f"{name.replace('_', ' '):18} {printing.as_text(value) if isinstance(value, bytes) else value}")
    if content is not None:
        for name, raw in content.headers:
            print(f"{'header':18} {name}: {printing.as_text(raw)}")
        print(f"{'payload':18} {printing.as_text(content.payload, 'none (a tombstone)')}")


@app.command(epilog="Example: outbox dead-letters retry --topic applications.events --dry-run")
def retry(
    message_ids: MessageIds = None,
    *,
    topic: OfTopic = None,
    everything: All = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, each before the messages that wait behind it. Say which: ids, --topic or --all."""
    from app.outbox import operators

    which, who = _which(message_ids, topic, everything=everything), name_of(by)
    _decide(
        lambda session: operators.retry(session, which, by=who, reason=reason),
        which,
        "retried",
        dry_run=dry_run,
        as_json=as_json,
    )


@app.command(epilog="Example: outbox dead-letters discard 01a1fd91-0ebb-72e8-9127-0fa14f122650 --reason 'test data'")
def discard(
    message_ids: Annotated[list[UUID], typer.Argument(metavar="MESSAGE_ID", help="Message ids.")],
    reason: Annotated[str, typer.Option(help="Why; compulsory, and recorded.")],
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Never send these dead letters: consumers will miss them. The messages that wait behind them go."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    from app.outbox import operators

    which, who = operators.ByIds(tuple(message_ids)), name_of(by)
    _decide(
        lambda session: operators.discard(session, which, by=who, reason=reason.strip()),
        which,
        "discarded",
        dry_run=dry_run,
        as_json=as_json,
    )


def _which(message_ids: "list[UUID] | None", topic: str | None, *, everything: bool) -> "Which":
    """Exactly one selector: nothing is ever sent again by leaving something out."""
    from app.outbox.operators import ByIds, OfTopic, Undecided

    if [bool(message_ids), topic is not None, everything].count(True) != 1:
        raise typer.BadParameter("give message ids, or --topic, or --all", param_hint="selector")
    if message_ids:
        return ByIds(tuple(message_ids))
    return Undecided() if topic is None else OfTopic(topic)


def _decide(
    act: "Callable[[AsyncSession], Awaitable[list[Letter]]]",
    which: "Which",
    done: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    from app.outbox import operators

    settings = running.settings()
    if dry_run:
        letters = running.in_database(settings, lambda session: operators.choose(session, which))
    else:
        letters = running.in_database(settings, act)
    if as_json:
        chosen = [{"message_id": letter.message_id, "topic": letter.topic} for letter in letters]
        print(printing.as_json({done: not dry_run, "dead_letters": chosen}))
        return
    for letter in letters:
        print(f"{letter.message_id} {letter.topic}")
    print(f"{len(letters)} {'would be ' if dry_run else ''}{done}")
