"""`outbox topics …`: the topics in Kafka, and what the relays know of them."""

import asyncio
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from app.cli import printing, running
from app.cli.who import By, name_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.outbox.status import Topic

app = typer.Typer(
    name="topics", help="Make topics in Kafka; see which are open; pause and resume them.", no_args_is_help=True
)

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise typer.BadParameter("a topic has 1 to 249 of the characters a-z A-Z 0-9 . _ -")
    return name


TopicName = Annotated[str, typer.Argument(callback=_checked, metavar="TOPIC", help="Name of the topic.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command(epilog="Example: TOPIC_PARTITIONS=12 outbox topics ensure shop.orders --timeout 30")
def ensure(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help="Topics besides those of this service.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for Kafka.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing in Kafka, with TOPIC_PARTITIONS and TOPIC_REPLICATION_FACTOR.

    Those that exist are left as they are. Safe to repeat.
    """
    settings = running.settings()
    from app.kafka import topics
    from app.kafka.topics import Created, Existing

    wanted = [*topics.ours(settings), *map(_checked, names or ())]
    ensured = asyncio.run(topics.ensure(settings, wanted, patience=timedelta(seconds=timeout)))
    if as_json:
        states = [
            {"topic": each.topic, "partitions": each.partitions, "created": isinstance(each, Created)}
            for each in ensured
        ]
        print(printing.as_json(states))
    for each in ensured:
        match each:
            case Created(topic, partitions) if not as_json:
                print(f"{topic}: created with {partitions} partitions")
            case Existing(topic, partitions) if not as_json:
                print(f"{topic}: exists with {partitions} partitions")
        if isinstance(each, Existing) and each.differs:
            printing.note(
                f"warning: {each.topic} has {each.partitions} partitions, TOPIC_PARTITIONS says {each.wanted}; "
                "it is left as it is, because keys would move to other partitions and lose their order"
            )


@app.command(epilog="Example: outbox topics asyncapi --defaults >docs/asyncapi.json")
def asyncapi(
    defaults: Annotated[bool, typer.Option("--defaults", help="With the topics that no setting has changed.")] = False,
) -> None:
    """Print the AsyncAPI document: what is sent to and taken from each topic. /asyncapi.json serves the same."""
    import json

    from app.asyncapi import document
    from app.settings import Settings

    described = document(Settings.model_construct() if defaults else running.settings())
    print(json.dumps(described, indent=2, ensure_ascii=False))


@app.command("list", epilog="Example: outbox topics list --json")
def list_topics(as_json: AsJson = False) -> None:
    """Show each topic that the outbox knows: open, paused, closed or half-open, since when and why."""
    settings = running.settings()
    from app.kafka.topics import ours
    from app.outbox import status

    async def work(session: "AsyncSession") -> "list[Topic]":
        return await status.read_topics(session, ours(settings))

    found = running.in_database(settings, work)
    if as_json:
        print(printing.as_json(found))
        return
    columns = ("topic", "state", "since", "until", "why", "owed", "parked", "dead", "dead letters")
    printing.console().print(printing.table(columns, map(_row, found)))


def _row(topic: "Topic") -> tuple[object, ...]:
    why = f"{topic.reason} ({topic.by})" if topic.by else topic.reason
    policy = "hold their key" if topic.on_dead_letter == "park" else "are overtaken"
    return (
        topic.topic,
        topic.state,
        printing.moment(topic.since),
        printing.moment(topic.until),
        why,
        topic.owed,
        topic.parked,
        topic.dead_letters,
        policy,
    )


@app.command(epilog="Example: outbox topics pause applications.events --reason 'new schema is deployed first'")
def pause(
    topic: TopicName,
    reason: Annotated[str, typer.Option(help="Why; compulsory.")],
    by: By = None,
) -> None:
    """Send nothing to a topic until it is resumed; its messages are kept, the others flow. Survives restarts."""
    if not reason.strip():
        raise typer.BadParameter("say why", param_hint="--reason")
    from app.outbox import operators

    who = name_of(by)
    running.in_database(
        running.settings(), lambda session: operators.pause(session, topic, by=who, reason=reason.strip())
    )
    print(f"{topic}: paused by {who}; `outbox topics resume {topic}` opens it")


@app.command(epilog="Example: outbox topics resume applications.events")
def resume(topic: TopicName) -> None:
    """Open a topic that was paused, or that its breaker closed. What was kept goes first, in order."""
    from app.outbox import operators

    opened = running.in_database(running.settings(), lambda session: operators.resume(session, topic))
    print(f"{topic}: {'open again' if opened else 'was open'}")


@app.command(epilog="Example: outbox topics policy applications.events continue")
def policy(
    topic: TopicName,
    on_dead_letter: Annotated[str, typer.Argument(metavar="park|continue", help="What a dead letter means.")],
) -> None:
    """Say what a dead letter means for later messages of its key.

    park (the default): they wait with it until somebody decides, so the order holds. continue: they overtake it.
    """
    from app.outbox import operators
    from app.outbox.operators import Policy

    if on_dead_letter not in get_args(Policy):
        raise typer.BadParameter(f"{on_dead_letter!r} is not park or continue", param_hint="park|continue")
    chosen: Policy = "park" if on_dead_letter == "park" else "continue"

    async def work() -> None:
        async with running.database(running.settings()) as transaction:
            # Two transactions, in this order: see `apply_policy`.
            await transaction(lambda session: operators.set_policy(session, topic, chosen))
            await transaction(lambda session: operators.apply_policy(session, topic, chosen))

    asyncio.run(work())
    effect = "wait behind a dead letter of their key" if chosen == "park" else "overtake a dead letter of their key"
    print(f"{topic}: later messages {effect}")
