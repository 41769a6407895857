"""PostgreSQL and Kafka out of Python packages: what runs when nothing else is installed."""

from app.embedded.directory import default_data_dir
from app.embedded.kafka import EmbeddedKafka
from app.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedKafka", "EmbeddedPostgres", "default_data_dir"]
