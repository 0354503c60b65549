"""The exporter on loopback with no cloud account: a local issuer and sample events, the real path."""
