"""What bounds and prices use: limits, what is leased out of them, and prices of models."""
