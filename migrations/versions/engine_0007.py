"""Messages are checked by one constraint, which calls one function; a plain `outbox_add` makes no list of headers.

PostgreSQL reads and plans the expression of each constraint anew for each INSERT, and the name of a topic was checked
by a pattern that counts, which is slow (docs/decisions/0013-one-constraint-one-function.md).
"""

from alembic import op

from migrations import run_script

revision = "engine_0007"
down_revision = "engine_0006"
branch_labels = None
depends_on = None

_MAX_BYTES = """
CREATE FUNCTION outbox_message_max_bytes() RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT {bytes}'
"""

# The names of constraints are those of before: callers know them. Of headers in one part, what costs nothing to see
# (as in engine_0006). The row stays out of the error, whose constraint and hint say enough.
CHECK = """
CREATE FUNCTION outbox_check_message(lane smallint, topic text, key bytea, headers bytea[], payload bytea, type text)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path FROM CURRENT AS $$
DECLARE
    refused_by text := CASE
        WHEN lane NOT BETWEEN 0 AND 31 THEN 'lane'
        WHEN lane <> outbox_bucket(key) & 31 THEN 'key_lane'
        WHEN topic !~ '^[a-zA-Z0-9._-]+$' OR length(topic) > 249 OR topic IN ('.', '..') THEN 'topic'
        WHEN length(type) NOT BETWEEN 1 AND 255 THEN 'type'
        WHEN array_position(headers, NULL) IS NOT NULL THEN 'headers'
        WHEN cardinality(headers) & 1 = 1 AND NOT CASE
            WHEN cardinality(headers) = 1 AND octet_length(headers[1]) > 2
            THEN get_byte(headers[1], 0) BETWEEN 2 AND 64
                AND (get_byte(headers[1], 0) | get_byte(headers[1], 1)) & 1 = 0
            ELSE false
        END THEN 'headers'
        WHEN coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0) + pg_column_size(headers)
            > outbox_message_max_bytes() THEN 'size'
    END;
BEGIN
    IF refused_by IS NULL THEN
        RETURN true;
    END IF;
    RAISE 'new row for relation "outbox_messages" violates check constraint "ck_outbox_messages_%"', refused_by
    USING ERRCODE = 'check_violation', TABLE = 'outbox_messages', CONSTRAINT = 'ck_outbox_messages_' || refused_by,
        HINT = CASE refused_by
            WHEN 'lane' THEN 'There are lanes 0 to 31. A message without a key may leave its lane out.'
            WHEN 'key_lane' THEN 'The lane of a key is outbox_bucket(key) & 31; outbox_add finds it.'
            WHEN 'topic' THEN 'It has 1 to 249 letters of ASCII, digits, dots, "_" and "-", and is not "." or "..".'
            WHEN 'type' THEN 'It has 1 to 255 characters.'
            WHEN 'headers' THEN 'They are names and values by turns, none of them NULL.'
            WHEN 'size' THEN format(
                'Key, headers and payload together have at most %s bytes (MESSAGE_MAX_BYTES).',
                outbox_message_max_bytes()
            )
        END;
END
$$;
"""

# The limit is a setting; `outbox migrate` sets it. Whoever checks by the old one plans anew once the new one commits.
_LIMIT = """
CREATE OR REPLACE FUNCTION outbox_limit_messages(bytes integer) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF outbox_message_max_bytes() <> bytes THEN
        EXECUTE format(
            'CREATE OR REPLACE FUNCTION outbox_message_max_bytes() RETURNS integer '
            'LANGUAGE sql IMMUTABLE PARALLEL SAFE AS ''SELECT %s''', bytes);
    END IF;
END
$$
"""

# As the first migration made it.
_LIMIT_BEFORE = """
CREATE OR REPLACE FUNCTION outbox_limit_messages(bytes integer) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
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
_BYTES = """
SELECT substring(pg_get_constraintdef(oid) FROM '<= (\\d+)\\)')::integer FROM pg_constraint
WHERE conrelid = 'outbox_messages'::regclass AND conname = 'ck_outbox_messages_size'
"""

# Messages already in the outbox were checked when they came.
_ONE = """
ALTER TABLE outbox_messages
    DROP CONSTRAINT ck_outbox_messages_lane,
    DROP CONSTRAINT ck_outbox_messages_key_lane,
    DROP CONSTRAINT ck_outbox_messages_topic,
    DROP CONSTRAINT ck_outbox_messages_type,
    DROP CONSTRAINT ck_outbox_messages_headers,
    DROP CONSTRAINT ck_outbox_messages_size,
    ADD CONSTRAINT ck_outbox_messages_message
        CHECK (outbox_check_message(lane, topic, key, headers, payload, type)) NOT VALID
"""
_SEVERAL = """
ALTER TABLE outbox_messages
    DROP CONSTRAINT ck_outbox_messages_message,
    ADD CONSTRAINT ck_outbox_messages_lane CHECK (lane BETWEEN 0 AND 31),
    ADD CONSTRAINT ck_outbox_messages_key_lane CHECK (key IS NULL OR lane = outbox_bucket(key) & 31),
    ADD CONSTRAINT ck_outbox_messages_topic CHECK (topic ~ '^[a-zA-Z0-9._-]{1,249}$' AND topic NOT IN ('.', '..')),
    ADD CONSTRAINT ck_outbox_messages_type CHECK (length(type) BETWEEN 1 AND 255),
    ADD CONSTRAINT ck_outbox_messages_headers CHECK (
        array_position(headers, NULL) IS NULL AND CASE
            WHEN cardinality(headers) & 1 = 0 THEN true
            WHEN cardinality(headers) = 1 AND octet_length(headers[1]) > 2
            THEN get_byte(headers[1], 0) BETWEEN 2 AND 64
                AND (get_byte(headers[1], 0) | get_byte(headers[1], 1)) & 1 = 0
            ELSE false
        END
    )
"""

_ADD = """
CREATE OR REPLACE FUNCTION outbox_add(
    topic text, key bytea, payload bytea, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    bucket integer := outbox_bucket(outbox_add.key);
    result uuid;
    flat bytea[];
BEGIN
    -- the headers
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
_LISTED = """
    IF jsonb_typeof(coalesce(outbox_add.headers, '{}')) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object of strings' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT coalesce(array_agg(part ORDER BY name, side), '{}') INTO flat
    FROM jsonb_each_text(
        jsonb_build_object('ce_source', '/' || current_database()) || coalesce(outbox_add.headers, '{}')
    ) AS header (name, value),
    LATERAL (VALUES (0, convert_to(name, 'UTF8')), (1, convert_to(value, 'UTF8'))) AS pair (side, part);
"""
# Most callers give none.
_LISTED_IF_GIVEN = f"""
    IF coalesce(outbox_add.headers, '{{}}') = '{{}}' THEN
        flat := ARRAY[convert_to('ce_source', 'UTF8'), convert_to('/' || current_database(), 'UTF8')];
    ELSE
        {_LISTED}
    END IF;
"""
ADD = _ADD.replace("-- the headers", _LISTED_IF_GIVEN)


def upgrade() -> None:
    bytes_ = op.get_bind().exec_driver_sql(_BYTES).scalar_one()
    op.execute(_MAX_BYTES.replace("{bytes}", str(bytes_)))
    run_script(CHECK)
    run_script(_LIMIT)
    op.execute(_ONE)
    run_script(ADD)


def downgrade() -> None:
    run_script(_ADD.replace("-- the headers", _LISTED))
    op.execute(_SEVERAL)
    run_script(_LIMIT_BEFORE)
    op.execute("SELECT outbox_limit_messages(outbox_message_max_bytes())")
    op.execute("DROP FUNCTION outbox_check_message, outbox_message_max_bytes")
