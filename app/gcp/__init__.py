"""Google Cloud's formats, which the rest of the exporter does not know."""
