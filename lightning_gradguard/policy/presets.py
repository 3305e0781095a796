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
    ReduceDropout,
    ReduceEps,
    ReduceLR,
    ReduceMomentum,
    Reinitialize,
    RemoveWeightDecay,
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


def _scaled(*remedies: AbstractRemedy, by: tuple[float, ...]) -> list[Rung]:
    return [(*remedies, ScaleLR(factor)) for factor in by]


_ADAM, _FAST_ADAM = SwitchToAdam(), SwitchToAdam(0.01)
_INPUTS, _DRAWN = NormalizeInput(above=3.0), Reinitialize()
_SELU = (SwapActivation(), _DRAWN)

#: What an experiment tries, the simplest first. The kinds of remedies follow what cured most in Zhang et al. 2021
#: (ICSE), table III; the factors are chosen.
CURES: tuple[Rung, ...] = (
    (RemoveWeightDecay(memory=1e6),),
    (ReduceMomentum(),),
    (ReduceEps(),),
    (ReduceDropout(),),
    *_scaled(by=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 3e-4, 1e-4)),
    *_scaled(by=(3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)),
    (_ADAM,),
    (_FAST_ADAM,),
    (SetForgetBias(),),
    (_INPUTS,),
    *_scaled(_INPUTS, by=(0.1, 0.01, 10.0, 100.0)),
    (_INPUTS, _ADAM),
    (_DRAWN,),
    *_scaled(_DRAWN, by=(0.1, 0.01, 10.0)),
    (_DRAWN, _ADAM),
    (SwapActivation(only=("sigmoid", "hardsigmoid", "exp")), _DRAWN),
    _SELU,
    *_scaled(*_SELU, by=(0.1, 0.01, 10.0)),
    (*_SELU, _ADAM),
    (_DRAWN, InsertNorm()),
    (_INPUTS, _DRAWN),
    *_scaled(_INPUTS, _DRAWN, by=(0.1,)),
    (_INPUTS, _DRAWN, _ADAM),
)


def _checkup(advice: str) -> TryEach:
    return TryEach(CURES, advice)


_STEPS = _checkup("scale inputs and targets, use a larger batch (accumulate_grad_batches), check the loss for log(0)")
_SIGNAL = _checkup(
    "use fewer layers or residual connections (fixes.add_residual); check the output activation and the loss"
)
_MEMORY = _checkup("use an LSTM or GRU (fixes.replace_rnn) or shorter sequences")
_PROGRESS = _checkup("train longer or with another optimizer; check that inputs and targets belong together")

#: May also change the model and the optimizer's settings for good. What `PROTECT` does comes first; for what keeps
#: coming back, or was there from the first step on, an experiment tells which cure is better than the run.
REPAIR = Policy(
    {
        **PROTECT.ladders,
        "nonfinite": [
            *_times(10, SkipStep()), (Rollback(),), *_times(49, Rollback(), ReduceLR(), _STEPS), Stop(),
        ],
        "exploding": [*_times(10, AdaptiveClip()), *_times(5, Rollback(), ReduceLR()), _STEPS],
        "loss_spike": [
            *_times(2, SkipStep()), Rollback(), *_times(17, Rollback(), ReduceLR()), _STEPS,
        ],
        "overshooting": [
            _STEPS, *_times(3, Rollback(), ScaleLRToUpdateRatio()), *_times(7, Rollback(), ReduceLR(), _STEPS), Stop(),
        ],
        "diverging": [Rollback(only_if_learned=True), _STEPS],
        "damaged_weights": [*_times(3, Rollback(), _STEPS), *_times(43, Rollback(), ReduceLR(), _STEPS), Stop()],
        "oscillating": [_STEPS],
        "poor_initialization": [_SIGNAL],
        "vanishing": [_SIGNAL],
        "vanishing_through_time": [_MEMORY],
        "exploding_through_time": [_SIGNAL],
        "saturated": [_SIGNAL],
        "unnormalized_input": [_STEPS],
        "dead_units": [_SIGNAL],
        "collapsed": [_SIGNAL],
        "no_progress": [_PROGRESS],
        "stalled": [_PROGRESS],
        "weight_growth": [IncreaseWeightDecay(), None],
    },
    name="repair",
)  # fmt: skip

PRESETS = {policy.name: policy for policy in (MONITOR, PROTECT, REPAIR)}
