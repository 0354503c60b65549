"""The durable state of the exporter: the port, the engine with its operations, and the backends."""
