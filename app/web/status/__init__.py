"""The status page: a snapshot of the exporter, the view model computed from it, and the template."""
