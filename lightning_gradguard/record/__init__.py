"""RECORD: what happened, as it is written down."""
