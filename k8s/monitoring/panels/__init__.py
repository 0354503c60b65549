"""The panels of the Grafana dashboard: what they ask, how they look, what they say."""
