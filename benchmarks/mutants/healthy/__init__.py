"""One file each; a new one needs no registration."""
