"""Google Cloud's formats; nothing else in the service knows them."""
