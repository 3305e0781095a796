"""The cases: every module here defines `CASE`."""
