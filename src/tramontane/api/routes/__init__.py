"""The routes, one file per noun; each declares who may call it."""
