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


#: Nothing is ever touched.
MONITOR = Policy(name="monitor")

#: Only what can be undone. The counts are chosen: ten skips survive a burst of bad batches; then the weights are
#: suspected, and after about fifty findings that healthy steps do not outweigh the run is given up.
PROTECT = Policy(
    {
        "nonfinite": [*_times(10, SkipStep()), *_times(40, Rollback(), ReduceLR()), (Stop(),)],
        "exploding": [*_times(20, AdaptiveClip()), *_times(30, Rollback(), ReduceLR()), (Stop(),)],
        "exploding_buffer": [*_times(20, SkipStep()), ()],
        "loss_spike": [*_times(2, SkipStep()), (Rollback(),), *_times(47, Rollback(), ReduceLR()), (Stop(),)],
        "lr_jump": [CapLR()],
        "loss_increase": [*_times(10, Rollback(), ReduceLR()), (Stop(),)],
        "overshooting": [*_times(10, Rollback(), ReduceLR()), (Stop(),)],
    },
    name="protect",
)

_AGAIN = Restart()
_DRAW = (_AGAIN, Reinitialize())

#: For a model that could not learn from its first step on: other weights, activations, normalisation, optimizer.
_REBUILD = TryEach(
    (
        (_AGAIN, SwapActivation(only=("sigmoid", "hardsigmoid", "exp")), Reinitialize()),
        _DRAW,
        (_AGAIN, SwapActivation(), Reinitialize()),
        (_AGAIN, SwapActivation(), Reinitialize(), ScaleLR(0.1)),
        (_AGAIN, Reinitialize(), InsertNorm()),
        (*_DRAW, SwitchToAdam()),
    ),
    by_hand="fewer layers or residual connections (fixes.add_residual); a look at the output activation and the loss",
)

#: For a recurrent model that forgets: the gate that keeps its state first.
_REMEMBER = TryEach(
    ((SetForgetBias(),), *_REBUILD.trials), by_hand="an LSTM or GRU (fixes.replace_rnn), shorter sequences"
)

#: For a run whose steps are too large: a scaled input, an ordinary momentum, smaller and smaller steps.
_CALM = TryEach(
    (
        (_AGAIN, RemoveWeightDecay()),
        (_AGAIN, NormalizeInput()),
        (_AGAIN, ReduceMomentum()),
        (_AGAIN, ScaleLR(0.1)),
        (ReviveUnits(), ScaleLR(0.1)),
        (_AGAIN, NormalizeInput(above=3.0)),
        (_AGAIN, ScaleLR(0.01)),
        (*_DRAW, ScaleLR(0.1)),
        (*_DRAW, ScaleLR(0.01)),
        (_AGAIN, SwitchToAdam()),
        (_AGAIN, ScaleLR(0.001)),
    ),
    clearly=0.5,  # any smaller step brings an exploded loss down a little
    by_hand="scaled inputs and targets, a larger batch (accumulate_grad_batches), and a check of the loss for log(0)",
)

#: For a run that goes too slowly, from where it is.
_HURRY = TryEach(
    (
        (_AGAIN, RemoveWeightDecay()),
        (ScaleLR(10.0),),
        (ScaleLR(100.0),),
        (ScaleLR(1000.0),),
        (SwitchToAdam(),),
        (SwitchToAdam(0.01),),
    ),
    share=0.04,
    by_hand="more steps (Trainer(max_steps=...)), another optimizer; a check that inputs and targets belong together",
)

#: May also change the model. What `PROTECT` undoes comes first; what keeps coming back, or has been there from the
#: first step on, is cured by trial. The order follows what cured most in Zhang et al. 2021 (ICSE), table III.
REPAIR = Policy(
    {
        **PROTECT.ladders,
        "nonfinite": [
            *_times(6, SkipStep()), (Rollback(),), *_times(2, Rollback(), ReduceLR()), _CALM, _REBUILD,
            *_times(40, Rollback(), ReduceLR()), Stop(),
        ],
        "exploding": [*_times(10, AdaptiveClip()), *_times(5, Rollback(), ReduceLR()), _CALM, _REBUILD, ()],
        "loss_spike": [*_times(2, SkipStep()), Rollback(), *_times(17, Rollback(), ReduceLR()), _CALM, ()],
        "overshooting": [
            _CALM, _REBUILD, *_times(3, Rollback(), ScaleLRToUpdateRatio()), *_times(7, Rollback(), ReduceLR()), Stop(),
        ],
        "diverging": [_CALM, _REBUILD, ()],
        "oscillating": [_CALM, ()],
        "poor_initialization": [_REBUILD, _CALM, ()],
        "vanishing": [_REBUILD, ()],
        "vanishing_through_time": [_REMEMBER, ()],
        "exploding_through_time": [_REBUILD, ()],
        "saturated": [_REBUILD, _CALM, ()],
        "unnormalized_input": [_CALM, ()],
        "dead_units": [_CALM, _REBUILD, ()],
        "collapsed": [_CALM, _REBUILD, ()],
        "no_progress": [_HURRY, _CALM, _REBUILD, ()],
        "stalled": [_REBUILD, ()],
        "weight_growth": [IncreaseWeightDecay(), ()],
    },
    name="repair",
)  # fmt: skip

PRESETS = {policy.name: policy for policy in (MONITOR, PROTECT, REPAIR)}
