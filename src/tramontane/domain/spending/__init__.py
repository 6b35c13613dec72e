"""What use is bounded by and what it costs: limits, their slices that gateways hold, prices."""
