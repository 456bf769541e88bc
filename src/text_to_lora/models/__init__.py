"""Where base models and hypernetworks come from: a folder, the cache, the hub, a package index."""
