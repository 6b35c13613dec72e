"""Use cases of what bounds and prices use: limits, budgets, prices, and slices for gateways."""
