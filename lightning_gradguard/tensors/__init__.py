"""Many tensors at once: their norms, copies and pieces, and the processes that share them."""
