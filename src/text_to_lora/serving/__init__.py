"""Adapters on request: the facade from a sentence to an adapter, and the base to run it on."""
