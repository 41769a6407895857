"""Kafka: how to reach and trust the brokers. What is said to them is in `app.kafka` and `relay.publisher`."""

import ssl
from datetime import timedelta

from app.settings import KafkaSettings

RETRY_PAUSE = timedelta(milliseconds=500)
"""Before the same is asked again; with less, a broker that fails over is asked for nothing."""


def connection_options(settings: KafkaSettings) -> dict[str, object]:
    """How to reach and trust the brokers, in aiokafka's words; the same for producers, consumers and admin clients."""
    options: dict[str, object] = {
        "bootstrap_servers": settings.kafka_bootstrap_servers,
        "security_protocol": settings.kafka_security_protocol,
        "request_timeout_ms": round(settings.kafka_request_timeout / timedelta(milliseconds=1)),
        "retry_backoff_ms": round(RETRY_PAUSE / timedelta(milliseconds=1)),
    }
    if "SSL" in settings.kafka_security_protocol:
        context = ssl.create_default_context(cafile=settings.kafka_ssl_cafile)
        if settings.kafka_ssl_certfile is not None:
            context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile)
        options["ssl_context"] = context
    if settings.kafka_security_protocol.startswith("SASL"):
        password = settings.kafka_sasl_password
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": settings.kafka_sasl_username,
            "sasl_plain_password": password.get_secret_value() if password else None,
        }
    return options
