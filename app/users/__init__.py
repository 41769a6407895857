"""Users: requested in XML over Kafka, each request answered in XML, whatever happens in between."""
