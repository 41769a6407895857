"""The SQL that tells which lanes have work. Who asks, and when, is in `relay.store`.

An EXISTS that ends in OFFSET 0 stops at the first row: without it the planner may hash all parked messages of a lane
instead.
"""

# A half-open topic's probe: the smallest id of it that lies parked in any lane and is not behind an undecided dead
# letter. A larger one could overtake a message of its key.
PROBES = """
    SELECT p.lane, p.id FROM outbox_topics AS t CROSS JOIN LATERAL (
        SELECT first.lane, first.id FROM outbox_lanes AS l CROSS JOIN LATERAL (
            SELECT q.lane, q.id FROM outbox_parked AS q
            WHERE q.topic = t.topic AND q.lane = l.lane AND q.behind IS NULL ORDER BY q.id LIMIT 1
        ) AS first
        UNION ALL
        SELECT first.lane, first.id FROM outbox_dead_letters AS d CROSS JOIN LATERAL (
            SELECT q.lane, q.id FROM outbox_parked AS q WHERE q.behind = d.id ORDER BY q.id LIMIT 1
        ) AS first
        WHERE d.topic = t.topic AND d.returning_at IS NOT NULL
        ORDER BY id LIMIT 1
    ) AS p
    WHERE t.paused_at IS NULL AND t.closed_until <= clock_timestamp()
"""

# A topic that does not take its dead letters' followers back now.
SHUT = """
    SELECT FROM outbox_topics AS t WHERE t.topic = d.topic AND (t.paused_at IS NOT NULL OR t.closed_at IS NOT NULL)
"""

# A lane owes something above its floor.
OWES = "EXISTS (SELECT FROM outbox_messages AS m WHERE m.lane = l.lane AND m.id > l.floor)"

# A lane has work when it owes something, when messages parked in it may go because their topic is open, when a decided
# dead letter's followers may return, or when it has the probe of a half-open topic.
_HAS_WORK = (
    OWES
    + """
    OR l.has_parked AND EXISTS (
        SELECT FROM outbox_topics AS t
        WHERE t.paused_at IS NULL AND t.closed_at IS NULL AND EXISTS (
            SELECT FROM outbox_parked AS p WHERE p.topic = t.topic AND p.lane = l.lane AND p.behind IS NULL OFFSET 0
        )
    )
    OR EXISTS (
        SELECT FROM outbox_dead_letters AS d
        WHERE d.lane = l.lane AND d.returning_at IS NOT NULL AND NOT EXISTS (
    """
    + SHUT
    + ")) OR l.lane IN (SELECT lane FROM ("
    + PROBES
    + ") AS probes)"
)

# Payloads of more than a quarter of a page lie in a table of their own, and as long as that has no page, none of a
# transaction that still runs either, no payload is longer.
_PAYLOAD_MAX = """
    SELECT current_setting('block_size')::integer / 4 FROM pg_class
    WHERE oid = 'outbox_messages'::regclass AND pg_relation_size(reltoastrelid) = 0
"""

# Which lanes have work, and how long are payloads at most? One round trip, no lock, no transaction id.
LOOK = "SELECT l.lane, (" + _PAYLOAD_MAX + ") FROM outbox_lanes AS l WHERE " + _HAS_WORK
