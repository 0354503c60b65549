"""The panels of the Grafana dashboard: their queries, looks and texts."""
