"""The cases, one module each, which defines `CASE`."""
