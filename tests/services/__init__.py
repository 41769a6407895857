"""PostgreSQL and Kafka for the tests, from four kinds of backends, and faults to put into them."""
