"""Where things run: one driver per kind of cluster, all behind the protocol in `base`."""
