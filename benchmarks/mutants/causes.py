"""Incidents that name the right cause of many operators."""

#: Steps that are too large.
LARGE = (
    "lr_too_large", "overshooting", "exploding", "diverging", "oscillating", "nonfinite", "loss_spike",
    "damaged_weights", "weight_growth", "dead_units", "collapsed", "lr_jump",
)  # fmt: skip
#: Steps that are too small.
SMALL = ("lr_too_small", "no_progress", "stalled")
#: Weights or activations that lose the signal.
INIT = (
    "poor_initialization", "vanishing", "exploding", "saturated", "collapsed", "dead_units", "nonfinite",
    "overshooting", "vanishing_through_time", "exploding_through_time", "unsuited_activation", "diverging",
    "no_progress",
)  # fmt: skip
#: Batches, gradients or state that spoil steps.
DATA = (
    "nonfinite", "nonfinite_state", "bad_batch", "loss_spike", "exploding", "diverging", "loss_increase",
    "early_outlier", "damaged_weights", "exploding_buffer", "weight_growth",
)  # fmt: skip
