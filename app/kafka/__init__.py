"""Kafka, apart from publishing: topics, and reading what is in them."""
