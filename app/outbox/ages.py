"""How old the oldest is: scalar subqueries, of type interval, that the statements of several modules share."""

# Of what nothing holds back. It reads the heads of the lanes, never a whole table.
OLDEST_OWED = """(
    SELECT coalesce(clock_timestamp() - min(head.created_at), '0')
    FROM outbox_lanes AS l CROSS JOIN LATERAL (
        SELECT m.created_at FROM outbox_messages AS m WHERE m.lane = l.lane AND m.id > l.floor ORDER BY m.id LIMIT 1
    ) AS head
)"""

# Any transaction with an xid, in any database of the cluster, stops the floors while it lasts.
OLDEST_TRANSACTION = """(
    SELECT coalesce(clock_timestamp() - min(begun), '0') FROM (
        SELECT xact_start AS begun FROM pg_stat_activity WHERE backend_xid IS NOT NULL
        UNION ALL SELECT prepared FROM pg_prepared_xacts
    ) AS running
)"""
