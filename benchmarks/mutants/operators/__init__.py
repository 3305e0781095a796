"""Ways to break a recipe, one file each. A new one is a new file with a function under `@operator`."""
