"""Data of any form becomes tasks: tables, data sets of the hub, conversations, public collections."""
