"""What runs: one pure recipe per engine, from a deployment's spec to the process to start."""
