"""What was recorded, read back and drawn: for the tab and for the report."""
