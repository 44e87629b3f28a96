"""Namespaces: opened, created, joined, entered, pinned and listed."""
