"""What is reported from outside of the control plane's machine."""
