"""DECIDE: the three policies that come by name."""

from __future__ import annotations

from lightning_gradguard.policy.ladders import Policy, Rung
from lightning_gradguard.remedies import (
    AbstractRemedy,
    AdaptiveClip,
    CapLR,
    IncreaseWeightDecay,
    InsertNorm,
    NormalizeInput,
    ReduceLR,
    ReduceMomentum,
    Reinitialize,
    RemoveWeightDecay,
    Restart,
    ReviveUnits,
    Rollback,
    ScaleLR,
    ScaleLRToUpdateRatio,
    SetForgetBias,
    SkipStep,
    Stop,
    SwapActivation,
    SwitchToAdam,
    TryEach,
)


def _times(count: int, *remedies: AbstractRemedy) -> list[Rung]:
    return [remedies] * count


#: Records and touches nothing.
MONITOR = Policy(name="monitor", allows_actions=False)

#: Never changes the model. The counts are chosen: ten skips survive a burst of bad batches, then the weights are
#: suspected, and after about fifty findings without enough healthy steps between them training is stopped.
PROTECT = Policy(
    {
        "nonfinite": [*_times(10, SkipStep()), (Rollback(),), *_times(49, Rollback(), ReduceLR()), (Stop(),)],
        "nonfinite_state": [*_times(2, Rollback()), *_times(48, Rollback(), ReduceLR()), (Stop(),)],
        "damaged_weights": [*_times(3, Rollback()), *_times(47, Rollback(), ReduceLR()), (Stop(),)],
        "invalid_lr": [*_times(50, SkipStep()), (Stop(),)],
        "exploding": [*_times(20, AdaptiveClip()), *_times(30, Rollback(), ReduceLR()), (Stop(),)],
        "exploding_buffer": [*_times(5, SkipStep()), (Rollback(),), *_times(44, SkipStep()), (Stop(),)],
        "early_outlier": [Rollback(), None],
        "loss_spike": [*_times(2, SkipStep()), (Rollback(),), *_times(47, Rollback(), ReduceLR()), (Stop(),)],
        "lr_jump": [CapLR()],
        "diverging": [*_times(2, Rollback()), *_times(8, Rollback(), ReduceLR()), None],
        "loss_increase": [*_times(10, Rollback(), ReduceLR()), (Stop(),)],
        "overshooting": [(Rollback(),), *_times(9, Rollback(), ReduceLR()), (Stop(),)],
    },
    name="protect",
)

_RESTART = Restart()
_REINITIALIZE = (_RESTART, Reinitialize())

#: For a model that could not learn from its first step on: other weights, activations, normalization, optimizer.
_REBUILD = TryEach(
    (
        (_RESTART, SwapActivation(only=("sigmoid", "hardsigmoid", "exp")), Reinitialize()),
        _REINITIALIZE,
        (_RESTART, SwapActivation(), Reinitialize()),
        (_RESTART, SwapActivation(), Reinitialize(), ScaleLR(0.1)),
        (_RESTART, Reinitialize(), InsertNorm()),
        (*_REINITIALIZE, SwitchToAdam()),
    ),
    advice="use fewer layers or residual connections (fixes.add_residual); check the output activation and the loss",
)

#: For a recurrent model whose gradient vanishes through time: first the gate that keeps its state.
_LONGER_MEMORY = TryEach(
    ((SetForgetBias(),), *_REBUILD.trials), advice="use an LSTM or GRU (fixes.replace_rnn) or shorter sequences"
)

#: For a run whose steps are too large: scaled inputs, an ordinary momentum, smaller and smaller steps.
_SMALLER_STEPS = TryEach(
    (
        (_RESTART, RemoveWeightDecay()),
        (_RESTART, NormalizeInput()),
        (_RESTART, ReduceMomentum()),
        (_RESTART, ScaleLR(0.1)),
        (ReviveUnits(), ScaleLR(0.1)),
        (_RESTART, NormalizeInput(above=3.0)),
        (_RESTART, ScaleLR(0.01)),
        (*_REINITIALIZE, ScaleLR(0.1)),
        (*_REINITIALIZE, ScaleLR(0.01)),
        (_RESTART, SwitchToAdam()),
        (_RESTART, ScaleLR(0.001)),
    ),
    clearly=0.5,  # any smaller step lowers an exploded loss a little
    advice="scale inputs and targets, use a larger batch (accumulate_grad_batches), check the loss for log(0)",
)

#: For a run that is too slow, from its present weights.
_LARGER_STEPS = TryEach(
    (
        (_RESTART, RemoveWeightDecay()),
        (ScaleLR(10.0),),
        (ScaleLR(100.0),),
        (ScaleLR(1000.0),),
        (SwitchToAdam(),),
        (SwitchToAdam(0.01),),
    ),
    share=0.04,
    advice="train longer or with another optimizer; check that inputs and targets belong together",
)

#: May also change the model. What `PROTECT` does comes first; for what keeps coming back, or was there from the first
#: step on, remedies are tried. Their order follows what cured most in Zhang et al. 2021 (ICSE), table III.
REPAIR = Policy(
    {
        **PROTECT.ladders,
        "nonfinite": [
            *_times(6, SkipStep()), (Rollback(),), *_times(2, Rollback(), ReduceLR()), _SMALLER_STEPS, _REBUILD,
            *_times(40, Rollback(), ReduceLR()), Stop(),
        ],
        "exploding": [*_times(10, AdaptiveClip()), *_times(5, Rollback(), ReduceLR()), _SMALLER_STEPS, _REBUILD, None],
        "loss_spike": [*_times(2, SkipStep()), Rollback(), *_times(17, Rollback(), ReduceLR()), _SMALLER_STEPS, None],
        "overshooting": [
            _SMALLER_STEPS, _REBUILD, *_times(3, Rollback(), ScaleLRToUpdateRatio()),
            *_times(7, Rollback(), ReduceLR()), Stop(),
        ],
        "diverging": [Rollback(only_if_learned=True), _SMALLER_STEPS, _REBUILD, None],
        "damaged_weights": [
            Rollback(), _SMALLER_STEPS, _REBUILD, *_times(40, Rollback(), ReduceLR()), Stop(),
        ],
        "oscillating": [_SMALLER_STEPS, None],
        "poor_initialization": [_REBUILD, _SMALLER_STEPS, None],
        "vanishing": [_REBUILD, None],
        "vanishing_through_time": [_LONGER_MEMORY, None],
        "exploding_through_time": [_REBUILD, None],
        "saturated": [_REBUILD, _SMALLER_STEPS, None],
        "unnormalized_input": [_SMALLER_STEPS, None],
        "dead_units": [_SMALLER_STEPS, _REBUILD, None],
        "collapsed": [_SMALLER_STEPS, _REBUILD, None],
        "no_progress": [_LARGER_STEPS, _SMALLER_STEPS, _REBUILD, None],
        "stalled": [_REBUILD, None],
        "weight_growth": [IncreaseWeightDecay(), None],
    },
    name="repair",
)  # fmt: skip

PRESETS = {policy.name: policy for policy in (MONITOR, PROTECT, REPAIR)}
