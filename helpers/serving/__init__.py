"""The HTTP API of make serve."""
