"""Jobs: work that ends, its attempts, and the plan that carries it through."""
