"""Modules and activations: what a forward pass calls, and exchanging parts of a model."""
