"""What the test rooms share: real systems to start, stubs, golden files."""
