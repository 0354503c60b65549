"""The demo: the exporter on loopback without a cloud account, a local issuer, and sample messages."""
