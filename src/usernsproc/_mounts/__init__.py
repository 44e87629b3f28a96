"""Idmapped mounts: created, examined and unmounted."""
