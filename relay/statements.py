"""The SQL of a slot: claim and settle; the fetch is in `relay.fetching`. Who calls it, and in which order, is in
`relay.store` and `relay.settlement`.

All parts that are joined together here are constants, of this module and of `relay.work`; values travel as parameters
only. For OFFSET 0 in an EXISTS see there.
"""

from enum import Enum
from functools import cache
from itertools import count

from relay.work import OWES

# A lane as it is locked. The lock reads the newest version of the row, whatever the snapshot; whether there still is
# work, the fetch sees.
_LOCKED = """
    SELECT l.lane, l.floor, l.seen, l.mark, l.mark_xid::text::bigint, l.has_parked, pg_current_xact_id()::text::bigint
    FROM outbox_lanes AS l WHERE
"""
_UNLESS_HELD = " FOR UPDATE OF l SKIP LOCKED"

# Takes up to $2 of these lanes, in this order, but for those that somebody holds.
CLAIM = (
    _LOCKED + "l.lane = ANY ($1::smallint[]) ORDER BY array_position($1::smallint[], l.lane) LIMIT $2" + _UNLESS_HELD
)

# Takes all lanes that owe something, but for those that somebody holds: a look and a claim at once. A full look costs
# more, because of all the tables in it.
CLAIM_OWED = _LOCKED + OWES + _UNLESS_HELD

# The rows that `named` names. As a plain join the planner, who believes the table as empty as it mostly is, may read
# all of it once for each name; these arrays are conditions of the index, and the pairs are looked up in a hash table
# whatever it believes (IS TRUE keeps it from making a join of them).
_NAMED = """
    lane = ANY (ARRAY(SELECT DISTINCT lane FROM named)) AND id = ANY (ARRAY(SELECT id FROM named))
    AND ((lane, id) IN (SELECT lane, id FROM named)) IS TRUE
"""

# What was deleted meets what is known of it in a FULL JOIN, for the same reason: that cannot be a nested loop. A name
# that met no row comes out without a message.
_MEETS = "FROM gone FULL JOIN named USING (lane, id) WHERE coalesce(message_id IS NOT NULL, false)"

TOGETHER = 16
"""Batches whose receipts one statement keeps."""
_OF_A_BATCH = (
    *("text", "integer", "bigint", "text::outbox_message_id_range"),
    *("uuid[]", "text::bigint[]", "text::bigint[]", "text::bigint[]"),
)


@cache
def receipts(batches: int) -> str:
    """Keeps the receipts of so many batches, each a row: topic, partition, offset, span of the messages' ids; these
    ids; and, as text, because asyncpg takes several times as long for lists, the rows', the moments and the
    fingerprints.

    A receipt says what the broker confirmed, so it does not ask whether the row is still there.
    """
    numbers, rows = count(1), []
    for _ in range(batches):
        given = [f"${next(numbers)}::{name}" for name in _OF_A_BATCH]
        rows.append(f"({', '.join((*given, 'statement_timestamp()'))})")
    return (
        'INSERT INTO outbox_receipt_batches (topic, partition, "offset", span, message_ids, ids, created_at_us, '
        f"fingerprints, delivered_at) VALUES {', '.join(rows)}"
    )


FEW = 100
"""Messages that are looked for in a list one by one; more of them would take too long."""


class Named(Enum):
    """How the messages to delete are named, by two parameters that are text."""

    ROWS = "ctid = ANY ({0}::tid[]) AND id << 5 | lane = ANY ({1}::bigint[])"
    """Few, by where the fetch saw them. Somebody may have put another row there, so lane and id must be right too, both
    in one number."""
    IDS_OF_LANE = "lane = {0}::smallint AND id = ANY ({1}::bigint[])"
    """Of one lane, as under pressure: an id alone must not name a row of another."""
    LANES_AND_IDS = _NAMED


@cache
def delivered(named: Named, *, batches: int = 0, table: str = "outbox_messages") -> str:
    """Deletes what was confirmed from the lanes, or from the parked, and keeps receipts of so many batches, whose
    parameters come first.
    """
    first, second = (f"${batches * len(_OF_A_BATCH) + number}::text" for number in (1, 2))
    parts = [f"kept AS ({receipts(batches)})"] if batches else []
    if named is Named.LANES_AND_IDS:
        parts.append(
            f"named AS MATERIALIZED (SELECT * FROM unnest({first}::smallint[], {second}::bigint[]) AS n (lane, id))"
        )
    with_ = f"WITH {', '.join(parts)} " if parts else ""
    return f"{with_}DELETE FROM {table} WHERE {named.value.format(first, second)}"


# Moves refused messages to the dead letters. One that was retried and refused again is undecided again; under the
# policy `continue` nothing waits behind it, so what still lies parked may return.
BURY = (
    """
    WITH named AS MATERIALIZED (
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::text[]) AS n (lane, id, reason)
    ), owed AS (DELETE FROM outbox_messages WHERE """
    + _NAMED
    + "RETURNING *), parked AS (DELETE FROM outbox_parked WHERE "
    + _NAMED
    + """
        RETURNING lane, id, message_id, topic, key, headers, payload, type, created_at
    ), gone AS (
        SELECT * FROM owed UNION ALL SELECT * FROM parked
    )
    INSERT INTO outbox_dead_letters AS d
        (lane, id, message_id, topic, key, headers, payload, type, created_at, reason)
    SELECT lane, id, message_id, topic, key, headers, payload, type, created_at, reason """
    + _MEETS
    + """
    ON CONFLICT (lane, id) DO UPDATE SET
        state = 'dead', reason = excluded.reason, refusals = d.refusals + 1, refused_at = clock_timestamp(),
        decided_at = NULL, decided_by = NULL, decision_reason = NULL,
        returning_at = CASE WHEN EXISTS (
            SELECT FROM outbox_topics AS t WHERE t.topic = d.topic AND t.on_dead_letter = 'continue'
        ) THEN clock_timestamp() END
"""
)

# Moves held messages out of the lane. Only the lane's holder does this.
PARK = (
    """
    WITH named AS MATERIALIZED (
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS n (lane, id, behind)
    ), gone AS (
        DELETE FROM outbox_messages WHERE """
    + _NAMED
    + """
        RETURNING *
    )
    INSERT INTO outbox_parked (lane, id, message_id, topic, key, headers, payload, type, created_at, behind)
    SELECT lane, id, message_id, topic, key, headers, payload, type, created_at, behind """
    + _MEETS
)

# Parked messages of a lane that came up, but must wait behind another dead letter now.
REPARK = "UPDATE outbox_parked SET behind = $3 WHERE lane = $1 AND id = ANY ($2::bigint[])"

# Dead letters that hold no mark any more: all their followers are back, or they are undecided and hold them. The mark
# must still be the one the fetch saw: a retry in between parked its message anew.
RETURNED = """
    UPDATE outbox_dead_letters AS d SET returning_at = NULL
    WHERE d.lane = ANY ($1::smallint[]) AND d.id = ANY ($2::bigint[])
    AND ((d.lane, d.id, d.returning_at) IN (
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::timestamptz[])
    )) IS TRUE AND (
        NOT EXISTS (SELECT FROM outbox_parked AS p WHERE p.behind = d.id OFFSET 0)
        OR d.state = 'dead' AND NOT EXISTS (
            SELECT FROM outbox_topics AS t WHERE t.topic = d.topic AND t.on_dead_letter = 'continue'
        )
    )
"""

# Writes lanes back. Only the holder parks behind closed topics, so what it sees of `has_parked` is exact.
LANES = """
    UPDATE outbox_lanes AS l SET
        floor = w.floor, seen = w.seen, mark = w.mark, mark_xid = w.mark_xid::text::xid8,
        has_parked = EXISTS (
            SELECT FROM outbox_topics AS t WHERE EXISTS (
                SELECT FROM outbox_parked AS p WHERE p.topic = t.topic AND p.lane = l.lane AND p.behind IS NULL OFFSET 0
            )
        )
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS w (lane, floor, seen, mark, mark_xid)
    WHERE l.lane = w.lane
"""

# What became of topics: closed again for longer, open because a message was confirmed, refusals counted. All rows in
# one statement, sorted, last: two settles that write two rows in opposite order would deadlock.
TOPICS = """
    INSERT INTO outbox_topics AS t
        (topic, closed_at, closed_until, close_reason, closures, refused_in_a_row)
    SELECT topic, CASE WHEN reason IS NOT NULL THEN clock_timestamp() END,
        CASE WHEN reason IS NOT NULL THEN clock_timestamp() + $5::interval END,
        reason, CASE WHEN reason IS NOT NULL THEN 1 ELSE 0 END, refused
    FROM unnest($1::text[], $2::text[], $3::boolean[], $4::integer[]) AS w (topic, reason, confirmed, refused)
    ORDER BY topic
    ON CONFLICT (topic) DO UPDATE SET (closed_at, closed_until, close_reason, closures, refused_in_a_row) = (
        SELECT
            CASE WHEN w.reason IS NOT NULL THEN coalesce(t.closed_at, clock_timestamp())
                WHEN NOT w.confirmed THEN t.closed_at END,
            CASE WHEN w.reason IS NOT NULL AND t.closed_until > clock_timestamp() THEN t.closed_until
                WHEN w.reason IS NOT NULL
                THEN clock_timestamp() + least($6::interval, $5::interval * 2 ^ least(t.closures, 20))
                WHEN NOT w.confirmed THEN t.closed_until END,
            CASE WHEN w.reason IS NOT NULL THEN w.reason WHEN NOT w.confirmed THEN t.close_reason END,
            CASE WHEN w.reason IS NOT NULL THEN t.closures + 1 WHEN w.confirmed THEN 0 ELSE t.closures END,
            CASE WHEN w.confirmed THEN w.refused ELSE t.refused_in_a_row + w.refused END
        FROM unnest($1::text[], $2::text[], $3::boolean[], $4::integer[]) AS w (topic, reason, confirmed, refused)
        WHERE w.topic = t.topic
    )
"""
