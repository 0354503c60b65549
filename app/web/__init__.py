"""HTTP: the thin skin. Requests in, problem documents and outcomes out."""
