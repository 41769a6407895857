"""Least privileges: group roles of PostgreSQL for each kind of process. Created on request only (`outbox roles`).

The owner of the tables migrates and decides on dead letters; everybody else logs in as a member of one of these.
"""

from collections.abc import Iterable, Sequence

APP, RELAY, INGEST, OPERATORS = "outbox_app", "outbox_relay", "outbox_ingest", "outbox_ops"
ROLES = {
    APP: "serves requests: works on the domains' tables, adds messages, sees where they are; never their content",
    RELAY: "delivers: takes messages out, keeps receipts and dead letters; never sees the domains' tables",
    INGEST: "consumes: works on the domains' tables and the inbox, adds messages",
    OPERATORS: "looks: everything of the outbox but payloads and headers; changes nothing",
}

_ENGINE_TABLES = (
    "outbox_messages",
    "outbox_lanes",
    "outbox_topics",
    "outbox_parked",
    "outbox_dead_letters",
    "outbox_receipts",
    "outbox_receipt_batches",
    "outbox_alembic_version",
    "inbox_messages",
    "inbox_attempts",
    "inbox_assignments",
    "idempotency_keys",
)

# Roles belong to the whole server, so another database may have made them already, or be making them right now.
_CREATE = """
DO $$ BEGIN
    CREATE ROLE {role} NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$"""

# `add` and `outbox_add` insert; the latter returns the message's id, for which it must be allowed to read just that.
_WRITER = """
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT ON outbox_alembic_version TO {role};
GRANT INSERT, SELECT (message_id) ON outbox_messages TO {role};
GRANT USAGE ON SEQUENCE outbox_messages_id_seq TO {role}"""

# Expired answers are replaced; the relay's housekeeping deletes them. Of messages, where they are: no key, header or
# payload.
_REQUESTS = f"""
GRANT SELECT, INSERT, UPDATE ON idempotency_keys TO {APP};
GRANT SELECT (lane, floor) ON outbox_lanes TO {APP};
GRANT SELECT (topic, on_dead_letter, paused_at, pause_reason, closed_at, close_reason) ON outbox_topics TO {APP};
GRANT SELECT (message_id, topic, partition, "offset", created_at, delivered_at) ON outbox_receipts TO {APP};
GRANT SELECT (topic, partition, "offset", delivered_at, span, message_ids, created_at_us)
    ON outbox_receipt_batches TO {APP};
GRANT SELECT (lane, id, message_id, topic, type, created_at) ON outbox_messages TO {APP};
GRANT SELECT (lane, id, message_id, topic, type, created_at, behind, parked_at) ON outbox_parked TO {APP};
GRANT SELECT (lane, id, message_id, topic, type, created_at, state, reason, refusals, refused_at, decided_at,
    decision_reason, returning_at) ON outbox_dead_letters TO {APP};
GRANT SELECT (scope, key, expires_at), DELETE ON idempotency_keys TO {RELAY}"""

_DOMAIN = "GRANT SELECT, INSERT, UPDATE ON {table} TO {role}"

# FOR UPDATE on a lane's row needs the right to update it. Ages of other sessions' transactions are pg_read_all_stats;
# ending zombies needs nothing: they are sessions of the same login.
_RELAY = f"""
GRANT USAGE ON SCHEMA public TO {RELAY};
GRANT SELECT ON outbox_alembic_version TO {RELAY};
GRANT SELECT, DELETE ON outbox_messages TO {RELAY};
GRANT SELECT, UPDATE ON outbox_lanes TO {RELAY};
GRANT SELECT, INSERT, UPDATE ON outbox_topics TO {RELAY};
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox_parked, outbox_dead_letters TO {RELAY};
GRANT SELECT, INSERT ON outbox_receipts, outbox_receipt_batches TO {RELAY};
GRANT EXECUTE ON FUNCTION outbox_roll_receipts TO {RELAY}"""

_INGEST = f"GRANT SELECT, INSERT, UPDATE, DELETE ON inbox_messages, inbox_attempts, inbox_assignments TO {INGEST}"

_OPERATORS = f"""
GRANT USAGE ON SCHEMA public TO {OPERATORS};
GRANT SELECT ON outbox_alembic_version, outbox_lanes, outbox_topics TO {OPERATORS};
GRANT SELECT ON outbox_receipts, outbox_receipt_batches TO {OPERATORS};
GRANT SELECT (lane, id, message_id, topic, key, type, created_at) ON outbox_messages TO {OPERATORS};
GRANT SELECT (lane, id, message_id, topic, key, type, created_at, behind, parked_at) ON outbox_parked TO {OPERATORS};
GRANT SELECT (lane, id, message_id, topic, key, type, created_at, state, reason, refusals, first_refused_at, refused_at,
    decided_at, decided_by, decision_reason, returning_at) ON outbox_dead_letters TO {OPERATORS};
GRANT SELECT (consumer, message_id, fingerprint) ON inbox_messages TO {OPERATORS}"""

# Who may grant it differs from server to server; without it ages of transactions of other logins read as unknown.
_STATISTICS = f"""
DO $$ BEGIN
    GRANT pg_read_all_stats TO {RELAY}, {OPERATORS};
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'pg_read_all_stats could not be granted to {RELAY} and {OPERATORS}: ask the server''s administrator';
END $$"""

_FUNCTIONS = """
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION outbox_roll_receipts, outbox_limit_messages FROM PUBLIC"""


def statements(domain_tables: Sequence[str]) -> list[str]:
    """All that has to be run, in one transaction, by the tables' owner, who may create roles. Safe to repeat: rights
    on our tables that a role has besides these are taken back.

    `domain_tables` are the ones that belong to requests and consumers; their names are ours, not input.
    """
    names = ", ".join(ROLES)
    tables = ", ".join((*_ENGINE_TABLES, *domain_tables))
    return [
        *(_CREATE.format(role=role).strip() for role in ROLES),
        f"REVOKE ALL ON {tables} FROM {names}",
        f"REVOKE ALL ON SEQUENCE outbox_messages_id_seq FROM {names}",
        *_split(_FUNCTIONS),
        *(part for role in (APP, INGEST) for part in _split(_WRITER.format(role=role))),
        *(_DOMAIN.format(table=table, role=role) for role in (APP, INGEST) for table in domain_tables),
        _INGEST,
        *_split(_REQUESTS),
        *_split(_RELAY),
        *_split(_OPERATORS),
        _STATISTICS.strip(),
    ]


def _split(script: str) -> Iterable[str]:
    return (part.strip() for part in script.split(";"))
