"""What runners say of themselves."""
