"""Namespaces as objects: found, made, entered, kept, joined."""
