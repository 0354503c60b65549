"""The store in Redis, which several replicas share."""
