"""The SQL of a slot: claim, fetch, settle. Who calls it, and in which order, is in `relay.store`.

All parts that are joined together here are constants, of this module and of `relay.work`; values travel as parameters
only. For OFFSET 0 in an EXISTS see there.
"""

from relay.work import PROBES, SHUT

# Takes up to $2 of these lanes, in this order, but for those that somebody holds. It reads the newest version of the
# row, whatever its snapshot; whether there still is work, the fetch sees.
CLAIM = """
    SELECT l.lane, l.floor, l.seen, l.mark, l.mark_xid::text::bigint, l.has_parked, pg_current_xact_id()::text::bigint,
        EXISTS (SELECT FROM outbox_dead_letters AS d WHERE d.lane = l.lane AND d.returning_at IS NOT NULL OFFSET 0)
    FROM outbox_lanes AS l WHERE l.lane = ANY ($1::smallint[])
    ORDER BY array_position($1::smallint[], l.lane) LIMIT $2 FOR UPDATE OF l SKIP LOCKED
"""

# Dead letters of the claimed lanes whose followers may still lie parked. Read before the fetch: one that is decided
# later gets another `returning_at`, and keeps it.
RETURNING = """
    SELECT lane, id, returning_at FROM outbox_dead_letters WHERE lane = ANY($1::smallint[]) AND returning_at IS NOT NULL
"""

_COLUMNS = "lane, id, message_id, topic, key, headers, payload, type, created_at"

# One list of a lane, in id order, cut at $4 messages and at $5 bytes of payload, but never empty. To count the bytes
# costs a fifth of the fetch.
_CUT = (
    "SELECT * FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ("
    "SELECT " + _COLUMNS + " FROM {source} ORDER BY id LIMIT $4) AS first"
    ") AS counted WHERE coalesce(bytes, 0) - coalesce(octet_length(payload), 0) < $5"
)

# The same where $4 messages cannot have that many bytes, see `small`.
_UNCOUNTED = "SELECT " + _COLUMNS + ", NULL::bigint AS bytes FROM {source} ORDER BY id LIMIT $4"

_LANE = "outbox_messages WHERE lane = c.lane AND id > c.floor"

# A statement of its own, never joined to the claim, whose snapshot is older than the lock. Per lane: the messages
# above the floor, and the parked ones that may go. `held`: the dead letter of its (topic, key) that a message must
# wait behind, or 0 when its topic is closed. `small`: payloads of more than a quarter of a page lie in a table of their
# own, and as long as that has no page, none of a transaction that still runs either, no message here has such a one.
# The first row has no lane, but two facts of this very snapshot: as id the oldest running transaction, as message_id
# the state of topics that are closed or refused their last messages.
FETCH = (
    """
    WITH claimed AS MATERIALIZED (
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::boolean[]) AS c (lane, floor, has_parked)
    ), shut AS MATERIALIZED (
        SELECT coalesce(array_agg(topic), '{}') AS topics FROM outbox_topics
        WHERE paused_at IS NOT NULL OR closed_at IS NOT NULL
    ), dead AS MATERIALIZED (
        SELECT EXISTS (SELECT FROM outbox_dead_letters WHERE state = 'dead') AS found
    ), taking AS MATERIALIZED (
        SELECT topic FROM outbox_topics
        WHERE paused_at IS NULL AND closed_at IS NULL AND EXISTS (SELECT FROM claimed WHERE has_parked)
    ), probes AS MATERIALIZED (
    """
    + PROBES
    + """
    ), small AS MATERIALIZED (
        SELECT EXISTS (
            SELECT FROM pg_class WHERE oid = 'outbox_messages'::regclass AND pg_relation_size(reltoastrelid) = 0
            AND $4::bigint * current_setting('block_size')::integer / 4 <= $5
        ) AS sure
    ), candidates AS (
        SELECT m.*, NULL::bigint AS behind FROM claimed AS c CROSS JOIN LATERAL (
    """
    + _UNCOUNTED.replace("{source}", _LANE)
    + """
        ) AS m WHERE (SELECT sure FROM small)
        UNION ALL
        SELECT m.*, NULL FROM claimed AS c CROSS JOIN LATERAL (
    """
    + _CUT.replace("{source}", _LANE)
    + """
        ) AS m WHERE NOT (SELECT sure FROM small)
        UNION ALL
        SELECT m.*, 0 FROM claimed AS c CROSS JOIN taking AS t CROSS JOIN LATERAL (
    """
    + _CUT.replace("{source}", "outbox_parked WHERE topic = t.topic AND lane = c.lane AND behind IS NULL")
    + """
        ) AS m WHERE c.has_parked
        UNION ALL
        SELECT m.*, d.id FROM claimed AS c
        JOIN outbox_dead_letters AS d ON d.lane = c.lane AND d.returning_at IS NOT NULL
        CROSS JOIN LATERAL (
    """
    + _CUT.replace("{source}", "outbox_parked WHERE behind = d.id")
    + ") AS m WHERE NOT EXISTS ("
    + SHUT
    + """
        )
        UNION ALL
        SELECT m.lane, m.id, m.message_id, m.topic, m.key, m.headers, m.payload, m.type, m.created_at, NULL,
            coalesce(m.behind, 0)
        FROM claimed AS c JOIN probes USING (lane) JOIN outbox_parked AS m USING (lane, id)
    )
    SELECT NULL AS lane, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS id, (
            SELECT json_object_agg(topic, json_build_array(closed_at IS NOT NULL, refused_in_a_row))::text
            FROM outbox_topics WHERE closed_at IS NOT NULL OR refused_in_a_row > 0
        ) AS message_id, NULL AS topic, NULL AS key, NULL AS headers, NULL AS payload, NULL AS type,
        NULL::timestamptz AS created_at, NULL AS held, NULL AS behind
    UNION ALL
    SELECT m.lane, m.id, m.message_id::text, m.topic, m.key, m.headers, m.payload, m.type, m.created_at,
        coalesce(
            CASE WHEN (SELECT found FROM dead) THEN (
                SELECT min(d.id) FROM outbox_dead_letters AS d
                WHERE d.state = 'dead' AND d.id < m.id
                    AND hashtextextended(encode(d.key, 'hex'), 0) = hashtextextended(encode(m.key, 'hex'), 0)
                    AND d.topic = m.topic AND d.key = m.key
                    AND (
                        NOT EXISTS (
                            SELECT FROM outbox_topics AS t WHERE t.topic = d.topic AND t.on_dead_letter = 'continue'
                        )
                        OR d.returning_at IS NULL
                        AND EXISTS (SELECT FROM outbox_parked AS p WHERE p.behind = d.id OFFSET 0)
                    )
            ) END,
            CASE WHEN m.behind IS NULL AND m.topic = ANY ((SELECT topics FROM shut)::text[]) THEN 0 END
        ),
        m.behind
    FROM candidates AS m
    """
)

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

# Deletes what was confirmed. Its lists come as text, because asyncpg takes several times as long for lists of integers.
# An id alone must not name a row of another lane; when all are of one lane, as they are under pressure, saying so once
# is enough, and cheaper.
_NAMES = "named AS MATERIALIZED (SELECT * FROM unnest({lanes}::text::smallint[], {ids}) AS n (lane, id))"
_GONE_OF_LANE = "DELETE FROM outbox_messages WHERE lane = {lane}::text::smallint AND id = ANY ({ids})"
_GONE = "DELETE FROM outbox_messages WHERE " + _NAMED
DELIVERED = "WITH " + _NAMES.format(ids="$1::text::bigint[]", lanes="$2") + _GONE
DELIVERED_OF_LANE = _GONE_OF_LANE.format(ids="$1::text::bigint[]", lane="$2")

# The same of messages that lie parked.
PARKED = {
    statement: statement.replace("outbox_messages", "outbox_parked") for statement in (DELIVERED, DELIVERED_OF_LANE)
}

# Keeps the receipts of all confirmed batches, a row each: of what is given of the messages, from `first` to `last`. A
# receipt says what the broker confirmed, so it does not ask whether the row is still there. One moment for all: read
# once.
_GIVEN = """
    WITH given AS MATERIALIZED (
        SELECT $1::text::bigint[] AS ids, $2::text::uuid[] AS message_ids, $3::text::bigint[] AS created_at_us,
            $4::text::bigint[] AS fingerprints
    )
"""
_KEEP = """
    INSERT INTO outbox_receipt_batches
        (topic, partition, "offset", delivered_at, span, message_ids, ids, created_at_us, fingerprints)
    SELECT topic, partition, "offset", (SELECT clock_timestamp()), span::outbox_message_id_range,
        message_ids[first:last], ids[first:last], created_at_us[first:last], fingerprints[first:last]
    FROM given CROSS JOIN unnest($5::text[], $6::integer[], $7::bigint[], $8::text[], $9::integer[], $10::integer[])
        AS b (topic, partition, "offset", span, first, last)
"""
RECEIPTS = _GIVEN + _KEEP

# The two in one, when all that was confirmed lies in lanes.
_KEPT = _GIVEN + ", kept AS (" + _KEEP + ")"
_IDS = "(SELECT ids FROM given)::bigint[]"
RECEIPTED = _KEPT + "," + _NAMES.format(ids=_IDS, lanes="$11") + _GONE
RECEIPTED_OF_LANE = _KEPT + _GONE_OF_LANE.format(ids=_IDS, lane="$11")

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
# must still be the one read before the fetch: a retry in between parked its message anew.
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
