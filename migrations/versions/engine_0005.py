"""Receipts of a confirmed batch are one row; `outbox_receipts`, a view now, shows them one a message."""

from alembic import op

from migrations import run_script

revision = "engine_0005"
down_revision = "engine_0004"
branch_labels = None
depends_on = None

# The arrays have one element a message. Compressing them costs more than it saves. `ids` has NULL where the receipt is
# older than ids in receipts.
_BATCHES = """
CREATE TYPE outbox_message_id_range AS RANGE (subtype = uuid);
CREATE TABLE outbox_receipt_batches (
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    delivered_at timestamptz NOT NULL,
    span outbox_message_id_range NOT NULL,
    message_ids uuid[] NOT NULL,
    ids bigint[] NOT NULL,
    created_at_us bigint[] NOT NULL,
    fingerprints bigint[] NOT NULL,
    CONSTRAINT ck_outbox_receipt_batches_messages CHECK (
        cardinality(message_ids) > 0 AND cardinality(ids) = cardinality(message_ids)
        AND cardinality(created_at_us) = cardinality(message_ids)
        AND cardinality(fingerprints) = cardinality(message_ids)
    )
) PARTITION BY RANGE (delivered_at);
ALTER TABLE outbox_receipt_batches
    ALTER message_ids SET STORAGE EXTERNAL,
    ALTER ids SET STORAGE EXTERNAL,
    ALTER created_at_us SET STORAGE EXTERNAL,
    ALTER fingerprints SET STORAGE EXTERNAL;
CREATE TABLE outbox_receipt_batches_default PARTITION OF outbox_receipt_batches DEFAULT;
"""

# Ids of messages begin with the time, so those of a batch lie close together: few batches span an id that is looked
# for, and the index costs an insert next to nothing. Rows are written in the order of time, so a summary of each range
# of pages is enough for that.
_BATCHES_INDEXES = """
CREATE INDEX ix_outbox_receipt_batches_span ON outbox_receipt_batches USING gist (span);
CREATE INDEX ix_outbox_receipt_batches_delivered_at ON outbox_receipt_batches USING brin (delivered_at)
    WITH (autosummarize = on);
"""

# A relay of before this migration inserts its receipts one by one; each is a batch of its own then. It has the rights
# of whoever inserts.
_VIEW = """
CREATE VIEW outbox_receipts AS
    SELECT m.message_id, b.topic, b.partition, b."offset" + m.number - 1 AS "offset",
        timestamptz '1970-01-01 00:00:00Z' + m.created_at_us * interval '1 microsecond' AS created_at,
        b.delivered_at, m.fingerprint, m.id
    FROM outbox_receipt_batches AS b
    CROSS JOIN LATERAL unnest(b.message_ids, b.created_at_us, b.fingerprints, b.ids)
        WITH ORDINALITY AS m (message_id, created_at_us, fingerprint, id, number);
CREATE FUNCTION outbox_keep_receipt() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO outbox_receipt_batches
        (topic, partition, "offset", delivered_at, span, message_ids, ids, created_at_us, fingerprints)
    VALUES (
        NEW.topic, NEW.partition, NEW."offset", NEW.delivered_at,
        outbox_message_id_range(NEW.message_id, NEW.message_id, '[]'), ARRAY[NEW.message_id], ARRAY[NEW.id],
        ARRAY[{created_at_us}], ARRAY[NEW.fingerprint]
    );
    RETURN NEW;
END
$$;
CREATE TRIGGER outbox_receipts_kept INSTEAD OF INSERT ON outbox_receipts
    FOR EACH ROW EXECUTE FUNCTION outbox_keep_receipt();
"""

# Moments that no clock tells ('infinity') come as near as RFC 3339 can say: the view must be able to read all of them.
_MICROSECONDS = """
    (1000000 * extract(
        epoch FROM greatest(least({moment}, '9999-12-31 00:00:00Z'), '0001-01-01 00:00:00Z')
    ))::bigint
"""

# Receipts of consecutive offsets that were written at the same moment become one batch. Of several for one place (they
# are false, but kept) each begins a row of its own: `copy` tells them apart.
_BATCH_UP = """
    INSERT INTO outbox_receipt_batches
        (topic, partition, "offset", delivered_at, span, message_ids, ids, created_at_us, fingerprints)
    SELECT topic, partition, min("offset"), delivered_at,
        outbox_message_id_range(
            min(message_id::text COLLATE "C")::uuid, max(message_id::text COLLATE "C")::uuid, '[]'
        ),
        array_agg(message_id ORDER BY "offset"), array_agg(id ORDER BY "offset"),
        array_agg({created_at_us} ORDER BY "offset"), array_agg(fingerprint ORDER BY "offset")
    FROM (
        SELECT *, "offset" - row_number() OVER (
            PARTITION BY topic, partition, delivered_at, copy ORDER BY "offset"
        ) AS island
        FROM (
            SELECT *, row_number() OVER (PARTITION BY topic, partition, delivered_at, "offset") AS copy
            FROM outbox_receipts_before
        ) AS told_apart
    ) AS receipts
    GROUP BY topic, partition, delivered_at, copy, island
"""

# The table as the first migrations made it.
_RECEIPTS = """
CREATE TABLE outbox_receipts (
    message_id uuid NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz NOT NULL,
    fingerprint bigint NOT NULL,
    id bigint
) PARTITION BY RANGE (delivered_at);
CREATE TABLE outbox_receipts_default PARTITION OF outbox_receipts DEFAULT;
"""
_RECEIPTS_INDEXES = """
CREATE INDEX ix_outbox_receipts_message_id ON outbox_receipts (message_id);
CREATE INDEX ix_outbox_receipts_delivered_at ON outbox_receipts USING brin (delivered_at) WITH (autosummarize = on);
"""

# The same days as the other table has, so that they are dropped when their time comes.
_DAYS = """
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format(
            'CREATE TABLE %I PARTITION OF {new} %s', '{new}' || right(relname, 9), pg_get_expr(relpartbound, oid)
        )
        FROM pg_inherits JOIN pg_class ON oid = inhrelid
        WHERE inhparent = '{old}'::regclass AND relname ~ '_[0-9]{{8}}$'
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
"""

# What roles may do with one, they may do with the other: a relay that runs must not be refused until `outbox roles` is
# run again.
_RIGHTS = """
DO $$
DECLARE
    command text;
BEGIN
    FOR command IN
        SELECT format('GRANT %s ON {new} TO %s', privilege_type, {who})
        FROM pg_class CROSS JOIN aclexplode(relacl)
        WHERE oid = '{old}'::regclass AND grantee <> relowner
            AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
        UNION ALL
        SELECT format('GRANT %s (%I) ON {new} TO %s', privilege_type, was.attname, {who})
        FROM pg_attribute AS was CROSS JOIN aclexplode(attacl)
        WHERE was.attrelid = '{old}'::regclass AND EXISTS (
            SELECT FROM pg_attribute AS same WHERE same.attrelid = '{new}'::regclass AND same.attname = was.attname
        )
    LOOP
        EXECUTE command;
    END LOOP;
END
$$
"""

# See the first migration; the name of the table is all that changes.
_ROLL = """
CREATE OR REPLACE FUNCTION outbox_roll_receipts(retention interval, ahead integer DEFAULT 7) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone TO 'UTC' AS $$
DECLARE
    today date := clock_timestamp()::date;
    day date;
    name text;
BEGIN
    FOR day IN SELECT today + i FROM generate_series(0, ahead) AS i LOOP
        name := '{table}_' || to_char(day, 'YYYYMMDD');
        IF to_regclass(name) IS NULL THEN
            LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE %I (LIKE {table} INCLUDING ALL)', name);
            EXECUTE format(
                'WITH moved AS (DELETE FROM {table}_default WHERE delivered_at >= %L AND delivered_at < %L '
                'RETURNING *) INSERT INTO %I SELECT * FROM moved', day, day + 1, name);
            EXECUTE format(
                'ALTER TABLE {table} ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, day, day + 1);
        END IF;
    END LOOP;
    FOR name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = '{table}'::regclass AND relname ~ '^{table}_[0-9]{{8}}$'
            AND to_date(right(relname, 8), 'YYYYMMDD') + 1 <= clock_timestamp() - retention
    LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
END
$$
"""


def _microseconds(moment: str) -> str:
    return _MICROSECONDS.format(moment=moment).strip()


def _days(old: str, new: str) -> str:
    return _DAYS.format(old=old, new=new)


def _rights(old: str, new: str) -> str:
    who = "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END"
    return _RIGHTS.format(old=old, new=new, who=who)


def upgrade() -> None:
    # Settles wait from here on.
    op.execute("ALTER TABLE outbox_receipts RENAME TO outbox_receipts_before")
    run_script(_BATCHES)
    run_script(_days("outbox_receipts_before", "outbox_receipt_batches"))
    run_script(_BATCH_UP.format(created_at_us=_microseconds("created_at")))
    run_script(_BATCHES_INDEXES)
    run_script(_VIEW.format(created_at_us=_microseconds("NEW.created_at")))
    for new in ("outbox_receipt_batches", "outbox_receipts"):
        run_script(_rights("outbox_receipts_before", new))
    run_script(_ROLL.format(table="outbox_receipt_batches"))
    op.execute("DROP TABLE outbox_receipts_before")


def downgrade() -> None:
    op.execute("LOCK TABLE outbox_receipt_batches IN ACCESS EXCLUSIVE MODE")
    op.execute("ALTER VIEW outbox_receipts RENAME TO outbox_receipts_before")
    run_script(_RECEIPTS)
    run_script(_days("outbox_receipt_batches", "outbox_receipts"))
    op.execute("INSERT INTO outbox_receipts SELECT * FROM outbox_receipts_before")
    run_script(_RECEIPTS_INDEXES)
    run_script(_rights("outbox_receipts_before", "outbox_receipts"))
    run_script(_ROLL.format(table="outbox_receipts"))
    op.execute("DROP VIEW outbox_receipts_before")
    op.execute("DROP FUNCTION outbox_keep_receipt")
    op.execute("DROP TABLE outbox_receipt_batches")
    op.execute("DROP TYPE outbox_message_id_range")
