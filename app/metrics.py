"""The metrics, all in one place; each process serves its own on `/metrics`. No label ever carries an id or a key."""

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5, 10, 20)
_LATE = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_SLOW = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 1800, 3600, 21600, 86400)

owed = Gauge("outbox_owed_messages", "Messages owed to Kafka, parked ones included", ["topic"])
oldest_owed = Gauge("outbox_oldest_owed_seconds", "Age of the oldest owed message that nothing holds back")
parked = Gauge("outbox_parked_messages", "Messages parked behind a dead letter or a closed topic", ["topic"])
parked_keys = Gauge("outbox_parked_keys", "Dead letters, not yet decided, that hold back their key")
dead_letters = Gauge("outbox_dead_letters", "Dead letters not yet decided", ["topic"])
floor_stalled = Gauge(
    "outbox_oldest_transaction_seconds", "Age of the oldest running transaction with an xid; it stops all floors"
)
dead_rows = Gauge(
    "outbox_dead_rows", "Rows delivered but not yet removed by vacuum; they grow while a snapshot is held anywhere"
)
delivered = Counter("outbox_delivered_total", "Messages confirmed by the broker and settled", ["topic"])
repeats_possible = Counter(
    "outbox_repeats_possible_total", "Messages sent whose answer is unknown or whose settle failed; they are sent again"
)
refused = Counter("outbox_refused_total", "Messages that became dead letters", ["topic", "reason"])
topic_closed = Counter("outbox_topic_closed_total", "How often a topic was closed by its breaker", ["topic", "reason"])
topic_open = Gauge("outbox_topic_open", "1 if the topic takes messages, 0 if it is paused or closed", ["topic"])
broker_available = Gauge("outbox_broker_available", "1 unless this process's breaker for the broker is open")
broker_failures = Counter("outbox_broker_failures_total", "Rounds in which nothing was acknowledged", ["reason"])
publish_seconds = Histogram(
    "outbox_publish_seconds", "From sending a round's messages to the last answer", buckets=_FAST
)
end_to_end_seconds = Histogram(
    "outbox_end_to_end_seconds", "From writing a message to its confirmation; the oldest of each batch", buckets=_SLOW
)
claims = Counter("outbox_claims_total", "Rounds of slots", ["result"])
round_messages = Histogram(
    "outbox_round_messages", "Messages taken in a round", buckets=(1, 4, 16, 64, 256, 512, 1024, 2048, 4096)
)
below_floor = Counter("outbox_below_floor_total", "Messages found below their lane's floor: a bug; they are delivered")
slots_connected = Gauge("outbox_slots_connected", "Slots with a connection to PostgreSQL")
settle_failures = Counter("outbox_settle_failures_total", "Rounds that ended without a commit", ["reason"])
last_round = Gauge("outbox_last_round_timestamp_seconds", "When a slot last finished a round")
housekeeping_seconds = Histogram("outbox_housekeeping_seconds", "Duration of a task of housekeeping", ["task"])

consumed = Counter(
    "consumer_records_total", "Records done with: handled, repeated or dead-lettered", ["consumer", "outcome"]
)
consumer_batch_seconds = Histogram(
    "consumer_batch_seconds", "From records in hand to their commit in PostgreSQL", ["consumer"], buckets=_FAST
)
consumer_lag = Gauge("consumer_lag_records", "Records that wait in Kafka", ["consumer", "topic", "partition"])
consumer_gap = Gauge("consumer_gap", "1 if Kafka lost or spoiled what comes next", ["consumer", "topic", "partition"])
consumer_failures = Counter(
    "consumer_failures_total", "Records or batches that could not be handled", ["consumer", "reason"]
)
consumer_commit_failures = Counter(
    "consumer_commit_failures_total", "Offsets that Kafka did not take; the records come again", ["consumer", "reason"]
)
consumer_rebalances = Counter("consumer_rebalances_total", "Times that partitions were given out anew", ["consumer"])

loop_late_seconds = Histogram(
    "loop_late_seconds", "By how much a worker's event loop came round late, asked each second", buckets=_LATE
)

idempotency_replays = Counter(
    "http_idempotency_replays_total", "Requests answered with the kept answer of an earlier one"
)
idempotency_conflicts = Counter(
    "http_idempotency_conflicts_total", "Requests refused because of their Idempotency-Key", ["reason"]
)
rate_limited = Counter("http_rate_limited_total", "Requests refused because their visitor sent too many", ["budget"])
rate_limit_failures = Counter("http_rate_limit_failures_total", "How often the store of the rate limits did not answer")
shed = Counter("http_shed_total", "Requests refused because there was too much to do", ["reason"])
