"""The control plane's side: its internal endpoints, and the paths forwarded to it."""
