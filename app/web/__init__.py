"""The HTTP layer: endpoints, problem documents, and uvicorn's protocol."""
