"""Jobs: work that ends."""
