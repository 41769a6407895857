"""What each message costs its writer: functions set no search path, one expression says that all is right.

In a transaction of one message each expression of a function is set up for a single use, operator by operator, and a
search path is set and reset around each call (docs/decisions/0013-one-constraint-one-function.md).
"""

from alembic import op

from migrations.versions import engine_0001, engine_0007

revision = "engine_0008"
down_revision = "engine_0007"
branch_labels = None
depends_on = None

# Of one random UUID, not two: one of version 4 differs from one of version 7 in what its first six bytes mean and in
# two bits of the version.
_UUID7 = """
CREATE OR REPLACE FUNCTION outbox_uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(
        set_bit(set_bit(
            overlay(
                uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6
            ),
            52, 1), 53, 1),
        'hex'
    )::uuid
$$
"""

# The rules are those of engine_0007; which of them a message broke is asked only when it broke one. Headers in one
# part begin with their number, 2 to 64, and a length, both zigzags of no negative one (engine_0006), and go on.
_CHECK = """
CREATE OR REPLACE FUNCTION outbox_check_message(
    lane smallint, topic text, key bytea, headers bytea[], payload bytea, type text
)
RETURNS boolean LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    refused_by text;
BEGIN
    IF lane = coalesce({schema}.outbox_bucket(key), lane) & 31
        AND topic ~ '^[a-zA-Z0-9._-]+$' AND length(topic) <= 249 AND topic NOT IN ('.', '..')
        AND type <> '' AND length(type) <= 255
        AND array_position(headers, NULL) IS NULL
        AND (
            cardinality(headers) & 1 = 0
            OR cardinality(headers) = 1
            AND encode(substring(headers[1] FROM 1 FOR 3), 'hex') ~ '^(0[2468ace]|[123][02468ace]|40).[02468ace]..$'
        )
        AND coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0) + pg_column_size(headers)
            <= {schema}.outbox_message_max_bytes()
    THEN
        RETURN true;
    END IF;
    refused_by := CASE
        WHEN lane NOT BETWEEN 0 AND 31 THEN 'lane'
        WHEN lane <> {schema}.outbox_bucket(key) & 31 THEN 'key_lane'
        WHEN topic !~ '^[a-zA-Z0-9._-]+$' OR length(topic) > 249 OR topic IN ('.', '..') THEN 'topic'
        WHEN length(type) NOT BETWEEN 1 AND 255 THEN 'type'
        WHEN coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0) + pg_column_size(headers)
            > {schema}.outbox_message_max_bytes() THEN 'size'
        ELSE 'headers'
    END;
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
                {schema}.outbox_message_max_bytes()
            )
        END;
END
$$
"""

# The lock of the key comes first, then the id: for one key, id order is commit order. The lock is asked for in a
# condition, because PERFORM executes a query, which costs more.
_ADD = """
CREATE OR REPLACE FUNCTION outbox_add(
    topic text, key bytea, payload bytea, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    bucket integer := {schema}.outbox_bucket(outbox_add.key);
    flat bytea[] := ARRAY[convert_to('ce_source', 'UTF8'), convert_to('/' || current_database(), 'UTF8')];
    result uuid;
BEGIN
    IF outbox_add.headers <> '{}' THEN
        IF jsonb_typeof(outbox_add.headers) <> 'object' THEN
            RAISE EXCEPTION 'headers must be a JSON object of strings' USING ERRCODE = 'invalid_parameter_value';
        END IF;
        SELECT array_agg(part ORDER BY name, side) INTO flat
        FROM jsonb_each_text(
            jsonb_build_object('ce_source', '/' || current_database()) || outbox_add.headers
        ) AS header (name, value),
        LATERAL (VALUES (0, convert_to(name, 'UTF8')), (1, convert_to(value, 'UTF8'))) AS pair (side, part);
    END IF;
    IF bucket IS NOT NULL AND pg_advisory_xact_lock(1869968499, bucket) IS NULL THEN
        RAISE EXCEPTION 'the lock of the key was not taken';
    END IF;
    INSERT INTO {schema}.outbox_messages (lane, topic, key, headers, payload, type)
    VALUES (
        coalesce(bucket & 31, floor(random() * 32)), outbox_add.topic, outbox_add.key, flat, outbox_add.payload,
        coalesce(outbox_add.type, outbox_add.topic)
    )
    RETURNING message_id INTO result;
    RETURN result;
END
$$
"""

# Without a search path of its own it becomes a part of the query that calls it.
_ADD_TEXT = """
CREATE OR REPLACE FUNCTION outbox_add(
    topic text, key text, payload text, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT {schema}.outbox_add(topic, convert_to(key, 'UTF8'), convert_to(payload, 'UTF8'), headers, type)
$$
"""


def upgrade() -> None:
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for script in (_UUID7, _CHECK, _ADD, _ADD_TEXT):
        op.execute(script.replace("{schema}", schema))


def downgrade() -> None:
    for script in (engine_0001.ADD_TEXT, engine_0007.ADD, engine_0007.CHECK, engine_0001.UUID7):
        op.execute(script.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
