"""COLLECT: what a step is about to do, in numbers."""
