"""Moves owed messages to Kafka; knows nothing of the domains."""
