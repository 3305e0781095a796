"""Healthy programs of libraries built on Lightning: one file each, named as on PyPI, with `_` for `-`."""
