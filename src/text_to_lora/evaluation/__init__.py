"""Adapters -> scores: metrics, held-out tasks under controls, reports; not how adapters were made."""
