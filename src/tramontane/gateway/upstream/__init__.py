"""The engine's side: connections, replicas, what goes to an engine and what comes back."""
