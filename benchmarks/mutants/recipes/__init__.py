"""Healthy recipes, one file each. A new one is a new file that defines `RECIPE`."""
