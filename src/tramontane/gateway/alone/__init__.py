"""A gateway without a control plane: its route table is a file, its usage events stay with it."""
