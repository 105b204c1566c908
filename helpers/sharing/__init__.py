"""The folder that make export writes."""
