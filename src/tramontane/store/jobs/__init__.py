"""Jobs and the attempts at them."""
