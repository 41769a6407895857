"""Headers may be stored as they stand in a record of Kafka; `outbox_headers` makes a list of them again."""

from alembic import op

from migrations import run_script

revision = "engine_0006"
down_revision = "engine_0005"
branch_labels = None
depends_on = None

# The number of headers is the first byte; then each is a length, a name, a length and a value. Lengths are varints,
# seven bits a byte, and twice what they mean (zigzag).
_HEADERS = """
CREATE FUNCTION outbox_headers(stored bytea[]) RETURNS bytea[] LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    record bytea := stored[1];
    position integer := 1;
    length integer;
    shift integer;
    byte integer;
    result bytea[] := '{}';
BEGIN
    IF cardinality(stored) <> 1 THEN
        RETURN stored;
    END IF;
    WHILE position < octet_length(record) LOOP
        length := 0;
        shift := 0;
        LOOP
            byte := get_byte(record, position);
            position := position + 1;
            length := length | ((byte & 127) << shift);
            shift := shift + 7;
            EXIT WHEN byte < 128;
        END LOOP;
        length := length >> 1;
        result := array_append(result, substring(record FROM position + 1 FOR length));
        position := position + length;
    END LOOP;
    RETURN result;
END
$$
"""

_CHECK = "ALTER TABLE outbox_messages DROP CONSTRAINT ck_outbox_messages_headers, ADD CONSTRAINT "
_LIST = "cardinality(headers) & 1 = 0 AND array_position(headers, NULL) IS NULL"
# Of one part, what costs nothing to see: at most 32 headers, and a number and a first length that are zigzags of no
# negative ones. A name whose value was forgotten, which begins with a letter, is refused by that.
_EITHER = """
    array_position(headers, NULL) IS NULL AND CASE
        WHEN cardinality(headers) & 1 = 0 THEN true
        WHEN cardinality(headers) = 1 AND octet_length(headers[1]) > 2
        THEN get_byte(headers[1], 0) BETWEEN 2 AND 64 AND (get_byte(headers[1], 0) | get_byte(headers[1], 1)) & 1 = 0
        ELSE false
    END
"""
_AS_LIST = "UPDATE messages SET headers = outbox_headers(headers) WHERE cardinality(headers) = 1"


def upgrade() -> None:
    run_script(_HEADERS)
    op.execute(f"{_CHECK} ck_outbox_messages_headers CHECK ({_EITHER})")


def downgrade() -> None:
    op.execute("ALTER TABLE outbox_messages DISABLE TRIGGER outbox_messages_unchanged")
    for table in ("outbox_messages", "outbox_parked", "outbox_dead_letters"):
        op.execute(_AS_LIST.replace("messages", table))
    op.execute("ALTER TABLE outbox_messages ENABLE TRIGGER outbox_messages_unchanged")
    op.execute(f"{_CHECK} ck_outbox_messages_headers CHECK ({_LIST})")
    op.execute("DROP FUNCTION outbox_headers")
