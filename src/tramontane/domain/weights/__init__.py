"""Weights: what a GGUF file or a safetensors folder says about itself, read without trust."""
