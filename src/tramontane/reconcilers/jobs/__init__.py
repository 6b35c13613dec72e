"""The job reconciler: look, plan, commit the intent, then act on the drivers by id."""
