"""What tenants may hold of accelerators, and what jobs cost: tables and statements."""
