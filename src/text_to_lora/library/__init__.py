"""Many adapters as one file: the library, its import and its export."""
