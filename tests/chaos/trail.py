"""What PostgreSQL itself remembers of a run: triggers copy what is added and what moves, with the transaction."""

import asyncpg

from tests.services.postgres_server import dsn

SETTINGS = {"track_commit_timestamp": "on"}
"""Without it nobody could tell in which order transactions were committed."""

_SCHEMA = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.added (
    xid xid8, id bigint, message_id uuid, lane smallint, topic text, key bytea, headers bytea[], payload bytea,
    type text, at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE chaos.moved (
    xid xid8, what text, message_id uuid, at timestamptz DEFAULT clock_timestamp()
);
CREATE TABLE chaos.remembered (
    xid xid8, consumer text, message_id text, at timestamptz DEFAULT clock_timestamp()
);
CREATE FUNCTION chaos.add() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.added (xid, id, message_id, lane, topic, key, headers, payload, type)
    VALUES (pg_current_xact_id(), NEW.id, NEW.message_id, NEW.lane, NEW.topic, NEW.key, NEW.headers, NEW.payload,
        NEW.type);
    RETURN NULL;
END $$;
CREATE FUNCTION chaos.move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.moved (xid, what, message_id) VALUES (
        pg_current_xact_id(), TG_ARGV[0], CASE WHEN TG_OP = 'DELETE' THEN OLD.message_id ELSE NEW.message_id END
    );
    RETURN NULL;
END $$;
CREATE FUNCTION chaos.receipt() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.moved (xid, what, message_id) SELECT pg_current_xact_id(), 'receipt', unnest(NEW.message_ids);
    RETURN NULL;
END $$;
CREATE FUNCTION chaos.remember() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos.remembered (xid, consumer, message_id)
    VALUES (pg_current_xact_id(), NEW.consumer, NEW.message_id);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER INSERT ON outbox_messages FOR EACH ROW EXECUTE FUNCTION chaos.add();
CREATE TRIGGER chaos_gone AFTER DELETE ON outbox_messages FOR EACH ROW EXECUTE FUNCTION chaos.move('left');
CREATE TRIGGER chaos AFTER INSERT ON outbox_parked FOR EACH ROW EXECUTE FUNCTION chaos.move('parked');
CREATE TRIGGER chaos_gone AFTER DELETE ON outbox_parked FOR EACH ROW EXECUTE FUNCTION chaos.move('left');
CREATE TRIGGER chaos AFTER INSERT ON outbox_dead_letters FOR EACH ROW EXECUTE FUNCTION chaos.move('dead');
CREATE TRIGGER chaos AFTER INSERT ON outbox_receipt_batches FOR EACH ROW EXECUTE FUNCTION chaos.receipt();
CREATE TRIGGER chaos AFTER INSERT ON inbox_messages FOR EACH ROW EXECUTE FUNCTION chaos.remember();
"""


async def lay(database_url: str) -> None:
    """Install the triggers in a migrated database."""
    connection = await asyncpg.connect(dsn(database_url))
    try:
        await connection.execute(_SCHEMA)
    finally:
        await connection.close()
