"""The SQL of the fetch: what the claimed lanes owe, and what of it is held. Who calls it is in `relay.store`.

All parts that are joined together here are constants, of this module and of `relay.work`; values travel as parameters
only. For OFFSET 0 in an EXISTS see there.
"""

from relay.work import PROBES, SHUT

_COLUMNS = "lane, id, message_id, topic, key, headers, payload, type, created_at, ctid AS row"

# One list of a lane, in id order, cut at $3 messages and at $4 bytes of payload, but never empty. To count the bytes
# costs a fifth of the fetch.
_CUT = (
    "SELECT * FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) AS bytes FROM ("
    "SELECT " + _COLUMNS + " FROM {source} ORDER BY id LIMIT $3) AS first"
    ") AS counted WHERE coalesce(bytes, 0) - coalesce(octet_length(payload), 0) < $4"
)

# The same without counting, for where $3 messages cannot have that many bytes.
_UNCOUNTED = "SELECT " + _COLUMNS + " FROM {source} ORDER BY id LIMIT $3"

_LANE = "outbox_messages WHERE lane = c.lane AND id > c.floor"

# The first row of a fetch has no lane, but two facts of this very snapshot: as id the oldest running transaction, as
# message_id one that depends.
_FACTS = """
    SELECT NULL AS lane, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS id, {fact} AS message_id,
        NULL AS topic, NULL AS key, NULL AS headers, NULL AS payload, NULL AS type, NULL::timestamptz AS created_at,
        NULL::bigint AS held, NULL::bigint AS behind, NULL::tid AS row
"""
_MESSAGE = "m.lane, m.id, m.message_id::text, m.topic, m.key, m.headers, m.payload, m.type, m.created_at"

# Per lane, the messages above the floor.
_PLAIN = (
    """
    WITH plain AS MATERIALIZED (
        SELECT NOT EXISTS (SELECT FROM outbox_dead_letters WHERE state = 'dead' OFFSET 0)
            AND NOT EXISTS (SELECT FROM outbox_dead_letters WHERE returning_at IS NOT NULL OFFSET 0)
            AND NOT EXISTS (
                SELECT FROM outbox_topics WHERE paused_at IS NOT NULL OR closed_at IS NOT NULL OR refused_in_a_row > 0
            ) AS sure
    )
    """
    + _FACTS.replace("{fact}", "CASE WHEN NOT (SELECT sure FROM plain) THEN 'not plain' END")
    + "UNION ALL SELECT "
    + _MESSAGE
    + ", NULL, NULL, m.row FROM unnest($1::smallint[], $2::bigint[]) AS c (lane, floor)"
    + " CROSS JOIN LATERAL ({list}) AS m WHERE (SELECT sure FROM plain)"
)

# The fetches of nearly always: no message is held or parked, no dead letter undecided or returning, and no topic closed
# or refusing. That is seen by this very snapshot (that nothing lies parked, by the locked rows: only their holder
# parks); else they find nothing and say so, as message_id of the first row. They spare setting up the plan of the next
# one.
PLAIN = _PLAIN.replace("{list}", _CUT.replace("{source}", _LANE))
PLAIN_UNCOUNTED = _PLAIN.replace("{list}", _UNCOUNTED.replace("{source}", _LANE))

# A statement of its own, never joined to the claim, whose snapshot is older than the lock. Per lane: the messages
# above the floor, and the parked ones that may go. `held`: the dead letter of its (topic, key) that a message must
# wait behind, or 0 when its topic is closed. As message_id the first row has the state of topics that are closed or
# refused their last messages, and the dead letters of these lanes whose followers may still lie parked. One that is
# decided later gets another `returning_at`, and keeps it.
FETCH = (
    """
    WITH claimed AS MATERIALIZED (
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $5::boolean[]) AS c (lane, floor, has_parked)
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
    ), candidates AS (
        SELECT m.*, NULL::bigint AS behind FROM claimed AS c CROSS JOIN LATERAL (
    """
    + _CUT.replace("{source}", _LANE)
    + """
        ) AS m
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
        SELECT m.lane, m.id, m.message_id, m.topic, m.key, m.headers, m.payload, m.type, m.created_at, m.ctid, NULL,
            coalesce(m.behind, 0)
        FROM claimed AS c JOIN probes USING (lane) JOIN outbox_parked AS m USING (lane, id)
    )
    """
    + _FACTS.replace(
        "{fact}",
        """json_build_array((
            SELECT json_object_agg(topic, json_build_array(closed_at IS NOT NULL, refused_in_a_row))
            FROM outbox_topics WHERE closed_at IS NOT NULL OR refused_in_a_row > 0
        ), (
            SELECT json_agg(json_build_array(
                d.lane, d.id, (extract(epoch FROM d.returning_at) * 1000000)::bigint
            ))
            FROM claimed JOIN outbox_dead_letters AS d USING (lane) WHERE d.returning_at IS NOT NULL
        ))::text""",
    )
    + "UNION ALL SELECT "
    + _MESSAGE
    + """,
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
        m.behind, m.row
    FROM candidates AS m
    """
)
