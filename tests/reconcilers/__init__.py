"""The reconcilers on the real store, with fake drivers and a clock moved by hand."""
