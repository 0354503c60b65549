"""The status page: a snapshot of facts, the view model that is computed from it, and the template."""
