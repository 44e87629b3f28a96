"""Idmapped mounts: made, looked at, and taken away again."""
