"""A long run under mixed load with faults, with everything that was served accounted for."""
