"""The engine: outbox, lanes, topics, parked messages, dead letters, receipts, and the functions on them."""

from alembic import op

from migrations import run_script

revision = "engine_0001"
down_revision = None
branch_labels = ("engine",)
depends_on = None

# What a message is, wherever it lies.
_MESSAGE = """
    lane smallint NOT NULL,
    id bigint NOT NULL,
    message_id uuid NOT NULL,
    topic text NOT NULL,
    key bytea,
    headers bytea[] NOT NULL,
    payload bytea,
    type text NOT NULL,
    created_at timestamptz NOT NULL
"""

# Rows of these tables live for milliseconds, so autovacuum goes by numbers of rows, not by shares of the table, and
# does not take the lock that truncating needs.
_QUEUE = """
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 50000, vacuum_truncate = false
"""

# Ids of messages: RFC 9562 version 7. PostgreSQL has uuidv7() only from 18 on.
UUID7 = """
CREATE FUNCTION outbox_uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        set_byte(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6
            ),
            6, (get_byte(uuid_send(gen_random_uuid()), 6) & 15) | 112
        ),
        'hex'
    )::uuid
$$
"""

# A key's bucket: its advisory lock, and, by its low bits, its lane. NULL for a message without a key. `&`, not `%`,
# which can be negative. hashtextextended, because hashing bytea exists only from PostgreSQL 18 on.
_BUCKET = """
CREATE FUNCTION outbox_bucket(key bytea) RETURNS integer LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (hashtextextended(encode(key, 'hex'), 7011) & 4095)::integer
$$
"""

# The id's default gives the transaction its xid before it draws the id: the rule of the floor relies on it, for plain
# INSERT and COPY too (an identity column would not).
_OUTBOX = f"""
CREATE SEQUENCE outbox_messages_id_seq CACHE 1;

CREATE TABLE outbox_messages (
    {_MESSAGE},
    CONSTRAINT pk_outbox_messages PRIMARY KEY (lane, id),
    CONSTRAINT ck_outbox_messages_lane CHECK (lane BETWEEN 0 AND 31),
    CONSTRAINT ck_outbox_messages_key_lane CHECK (key IS NULL OR lane = outbox_bucket(key) & 31),
    CONSTRAINT ck_outbox_messages_topic CHECK (topic ~ '^[a-zA-Z0-9._-]{{1,249}}$' AND topic NOT IN ('.', '..')),
    CONSTRAINT ck_outbox_messages_type CHECK (length(type) BETWEEN 1 AND 255),
    CONSTRAINT ck_outbox_messages_headers
        CHECK (cardinality(headers) & 1 = 0 AND array_position(headers, NULL) IS NULL)
) WITH ({_QUEUE});
ALTER SEQUENCE outbox_messages_id_seq OWNED BY outbox_messages.id;
ALTER TABLE outbox_messages
    ALTER lane SET DEFAULT floor(random() * 32),
    ALTER id SET DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('outbox_messages_id_seq') END,
    ALTER message_id SET DEFAULT outbox_uuid7(),
    ALTER headers SET DEFAULT '{{}}',
    ALTER created_at SET DEFAULT clock_timestamp(),
    ALTER payload SET STORAGE EXTERNAL;
CREATE INDEX ix_outbox_messages_message_id ON outbox_messages (message_id);

CREATE FUNCTION outbox_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a message in the outbox is never changed' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER outbox_messages_unchanged BEFORE UPDATE ON outbox_messages
    FOR EACH ROW EXECUTE FUNCTION outbox_refuse_change();
"""

_LANES = """
CREATE TABLE outbox_lanes (
    lane smallint NOT NULL,
    floor bigint NOT NULL DEFAULT 0,
    seen bigint NOT NULL DEFAULT 0,
    mark bigint,
    mark_xid xid8,
    has_parked boolean NOT NULL DEFAULT false,
    CONSTRAINT pk_outbox_lanes PRIMARY KEY (lane),
    CONSTRAINT ck_outbox_lanes_mark CHECK ((mark IS NULL) = (mark_xid IS NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
INSERT INTO outbox_lanes (lane) SELECT generate_series(0, 31);
"""

_TOPICS = """
CREATE TABLE outbox_topics (
    topic text NOT NULL,
    on_dead_letter text NOT NULL DEFAULT 'park',
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    closed_at timestamptz,
    closed_until timestamptz,
    close_reason text,
    closures integer NOT NULL DEFAULT 0,
    refused_in_a_row integer NOT NULL DEFAULT 0,
    CONSTRAINT pk_outbox_topics PRIMARY KEY (topic),
    CONSTRAINT ck_outbox_topics_on_dead_letter CHECK (on_dead_letter IN ('park', 'continue')),
    CONSTRAINT ck_outbox_topics_closed CHECK ((closed_at IS NULL) = (closed_until IS NULL))
) WITH (fillfactor = 50)
"""

_PARKED = f"""
CREATE TABLE outbox_parked (
    {_MESSAGE},
    behind bigint,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_outbox_parked PRIMARY KEY (lane, id)
) WITH ({_QUEUE});
ALTER TABLE outbox_parked ALTER payload SET STORAGE EXTERNAL;
CREATE INDEX ix_outbox_parked_message_id ON outbox_parked (message_id);
CREATE INDEX ix_outbox_parked_topic_lane_id ON outbox_parked (topic, lane, id) WHERE behind IS NULL;
CREATE INDEX ix_outbox_parked_behind_id ON outbox_parked (behind, id) WHERE behind IS NOT NULL;
"""

_DEAD_LETTERS = f"""
CREATE TABLE outbox_dead_letters (
    {_MESSAGE},
    state text NOT NULL DEFAULT 'dead',
    reason text NOT NULL,
    refusals integer NOT NULL DEFAULT 1,
    first_refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    refused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decided_at timestamptz,
    decided_by text,
    decision_reason text,
    returning_at timestamptz,
    CONSTRAINT pk_outbox_dead_letters PRIMARY KEY (lane, id),
    CONSTRAINT ck_outbox_dead_letters_state CHECK (state IN ('dead', 'retried', 'discarded')),
    CONSTRAINT ck_outbox_dead_letters_decided CHECK ((state = 'dead') = (decided_at IS NULL)),
    CONSTRAINT ck_outbox_dead_letters_discard_reason CHECK (state <> 'discarded' OR decision_reason <> '')
);
ALTER TABLE outbox_dead_letters ALTER payload SET STORAGE EXTERNAL;
CREATE INDEX ix_outbox_dead_letters_message_id ON outbox_dead_letters (message_id);
CREATE INDEX ix_outbox_dead_letters_key ON outbox_dead_letters (hashtextextended(encode(key, 'hex'), 0), id)
    WHERE state = 'dead';
CREATE INDEX ix_outbox_dead_letters_lane_returning ON outbox_dead_letters (lane) WHERE returning_at IS NOT NULL;
"""

_RECEIPTS = """
CREATE TABLE outbox_receipts (
    message_id uuid NOT NULL,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    created_at timestamptz NOT NULL,
    delivered_at timestamptz NOT NULL,
    fingerprint bigint NOT NULL
) PARTITION BY RANGE (delivered_at);
CREATE INDEX ix_outbox_receipts_message_id ON outbox_receipts (message_id);
-- Receipts are written in the order of time, so a summary of each range of pages is enough; it costs an insert nothing.
CREATE INDEX ix_outbox_receipts_delivered_at ON outbox_receipts USING brin (delivered_at) WITH (autosummarize = on);
CREATE TABLE outbox_receipts_default PARTITION OF outbox_receipts DEFAULT;

-- Makes the partitions of today and the next days (UTC), taking over what the default partition holds of them, and
-- drops those that ended longer ago than the retention. A settle that was routed to the default partition and then sees
-- its day attached would fail, so settles wait while a partition is made. Runs with the rights of the tables' owner, so
-- that the relay's role need not own them.
CREATE FUNCTION outbox_roll_receipts(retention interval, ahead integer DEFAULT 7) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone TO 'UTC' AS $$
DECLARE
    today date := clock_timestamp()::date;
    day date;
    name text;
BEGIN
    FOR day IN SELECT today + i FROM generate_series(0, ahead) AS i LOOP
        name := 'outbox_receipts_' || to_char(day, 'YYYYMMDD');
        IF to_regclass(name) IS NULL THEN
            LOCK TABLE outbox_receipts IN SHARE ROW EXCLUSIVE MODE;
            EXECUTE format('CREATE TABLE %I (LIKE outbox_receipts INCLUDING ALL)', name);
            EXECUTE format(
                'WITH moved AS (DELETE FROM outbox_receipts_default WHERE delivered_at >= %L AND delivered_at < %L '
                'RETURNING *) INSERT INTO %I SELECT * FROM moved', day, day + 1, name);
            EXECUTE format(
                'ALTER TABLE outbox_receipts ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, day, day + 1);
        END IF;
    END LOOP;
    FOR name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'outbox_receipts'::regclass AND relname ~ '^outbox_receipts_[0-9]{8}$'
            AND to_date(right(relname, 8), 'YYYYMMDD') + 1 <= clock_timestamp() - retention
    LOOP
        EXECUTE format('DROP TABLE %I', name);
    END LOOP;
END
$$;
"""

# One message, for plain SQL. The lock of the key comes first, then the id: for one key, id order is commit order.
_ADD = """
CREATE FUNCTION outbox_add(topic text, key bytea, payload bytea, headers jsonb DEFAULT '{}', type text DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    bucket integer := outbox_bucket(outbox_add.key);
    result uuid;
    flat bytea[];
BEGIN
    IF jsonb_typeof(coalesce(outbox_add.headers, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object of strings' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT coalesce(array_agg(part ORDER BY name, side), '{}') INTO flat
    FROM jsonb_each_text(
        jsonb_build_object('ce_source', '/' || current_database()) || coalesce(outbox_add.headers, '{}')
    ) AS header (name, value),
    LATERAL (VALUES (0, convert_to(name, 'UTF8')), (1, convert_to(value, 'UTF8'))) AS pair (side, part);
    IF bucket IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(1869968499, bucket);
    END IF;
    INSERT INTO outbox_messages (lane, topic, key, headers, payload, type)
    VALUES (
        coalesce(bucket & 31, floor(random() * 32)), outbox_add.topic, outbox_add.key, flat, outbox_add.payload,
        coalesce(outbox_add.type, outbox_add.topic)
    )
    RETURNING message_id INTO result;
    RETURN result;
END
$$
"""
ADD_TEXT = """
CREATE FUNCTION outbox_add(topic text, key text, payload text, headers jsonb DEFAULT '{}', type text DEFAULT NULL)
RETURNS uuid LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    SELECT outbox_add(topic, convert_to(key, 'UTF8'), convert_to(payload, 'UTF8'), headers, type)
$$
"""

# The limit is a setting, so its constraint is put in place by `outbox migrate`, and only when it changed. Messages
# already in the outbox were checked when they came.
_LIMIT = """
CREATE FUNCTION outbox_limit_messages(bytes integer) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = 'outbox_messages'::regclass AND conname = 'ck_outbox_messages_size'
            AND pg_get_constraintdef(oid) LIKE '%<= ' || bytes || ')%'
    ) THEN
        RETURN;
    END IF;
    ALTER TABLE outbox_messages DROP CONSTRAINT IF EXISTS ck_outbox_messages_size;
    EXECUTE format(
        'ALTER TABLE outbox_messages ADD CONSTRAINT ck_outbox_messages_size CHECK (coalesce(octet_length(key), 0) + '
        'coalesce(octet_length(payload), 0) + pg_column_size(headers) <= %s) NOT VALID', bytes);
END
$$
"""


def upgrade() -> None:
    tables = (_OUTBOX, _LANES, _TOPICS, _PARKED, _DEAD_LETTERS, _RECEIPTS)
    for script in (UUID7, _BUCKET, *tables, _ADD, ADD_TEXT, _LIMIT):
        run_script(script)
    op.execute("SELECT outbox_limit_messages(900000)")


def downgrade() -> None:
    op.execute("DROP FUNCTION outbox_limit_messages, outbox_roll_receipts")
    op.execute("DROP FUNCTION outbox_add(text, text, text, jsonb, text), outbox_add(text, bytea, bytea, jsonb, text)")
    op.execute(
        "DROP TABLE outbox_receipts, outbox_dead_letters, outbox_parked, outbox_topics, outbox_lanes, outbox_messages"
    )
    op.execute("DROP FUNCTION outbox_refuse_change, outbox_bucket, outbox_uuid7")
