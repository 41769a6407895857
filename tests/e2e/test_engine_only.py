"""The engine in somebody else's service: its tables beside theirs, plain SQL from psql, and a relay."""

from tests.command import outbox_aside
from tests.relay_process import relay_process
from tests.services.kafka import Kafka
from tests.services.postgres_server import PostgresServer, dsn

# What a shop does: an order and the message about it in one transaction; the second order is not to be.
_ORDERS = """
    CREATE TABLE orders (id bigint PRIMARY KEY, state text NOT NULL);
    BEGIN;
    INSERT INTO orders VALUES (1, 'placed');
    SELECT outbox_add(:'topic', 'order-1', '{"state":"placed"}', '{"content-type":"application/json"}', 'order.placed');
    COMMIT;
    BEGIN;
    INSERT INTO orders VALUES (2, 'placed');
    SELECT outbox_add(:'topic', 'order-2', '{"state":"placed"}');
    ROLLBACK;
    BEGIN;
    UPDATE orders SET state = 'paid' WHERE id = 1;
    SELECT outbox_add(:'topic', 'order-1', '{"state":"paid"}', '{"content-type":"application/json"}', 'order.paid');
    COMMIT;
"""


async def test_orders_of_a_shop_reach_kafka_in_order_from_plain_sql(
    postgres: PostgresServer, empty_database_url: str, kafka: Kafka
) -> None:
    topic = await kafka.create_topic()
    migrated = await outbox_aside("migrate", "--engine-only", DATABASE_URL=dsn(empty_database_url))
    assert migrated.exit_code == 0, migrated.output
    await postgres.psql(_ORDERS, empty_database_url, "-v", f"topic={topic}")
    async with relay_process(dsn(empty_database_url), kafka.bootstrap_servers) as relay:
        await relay.ready()
        records = await kafka.records(topic, at_least=2)
    assert [(record.key, record.value) for record in records] == [
        (b"order-1", b'{"state":"placed"}'),
        (b"order-1", b'{"state":"paid"}'),
    ]
    headers = dict(records[0].headers)
    assert headers["ce_type"] == b"order.placed"
    assert headers["content-type"] == b"application/json"
    assert headers["ce_specversion"] == b"1.0"
