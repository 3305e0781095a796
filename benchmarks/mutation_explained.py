"""Mutants that may survive `mutation.py`, each with the reason: file -> "function: changed line" -> reason."""

# ruff: noqa: E501

from __future__ import annotations

TIE = "Differs only where two floating-point numbers are exactly equal, and then another condition decides."
SHARDED = "Differs with sharded parameters alone (`tests/distributed`)."


EXPLAINED: dict[str, dict[str, str]] = {
    "collect/loss_level.py": {
        "follow_level: return {**state, 'errors': [*state['errors'], error][-TYPICAL:], 'first': now if begun else state['first'], 'best': min(now, state['best'])}": "Before the first level the best one is NaN, and `min(now, nan)` is `now`.",
    },
    "collect/loss_trend.py": {
        ": DEFAULT_TOTAL_STEPS = 5001": "A fiftieth of it, rounded down, is the same.",
        ": INITIAL: State = {'size': 0, 'lr': 1.0, 'start': None, 'first': [0, 0.0, 0.0], 'block': [0, 0.0, 0.0], 'means': [], 'errors': [], 'lost': [], 'decreased': False, 'signal_lost': False, 'trend': NO_TREND}": "Before the first block there are no blocks that an increase of the learning rate could discard.",
        "follow: if lr > 1.2 * state['lr'] >= 0:": "No schedule stays at a learning rate of 0 for a whole block.",
        "judge: return LossTrend(*trend)": "Copies a trend that could be returned as it is.",
        "_trend: not_below_first = means[0] - now + 2 * math.hypot(errors[0], now_error) <= 0.1 * abs(means[0])": TIE,
        "_trend: not_below_first = means[0] - now + 2 * math.hypot(errors[0], now_error) < 0.1 * means[0]": "A loss that is negative counts as decreased, so that this condition is not read.",
        "_has_decreased: surely = first - now > max(0.03 * first, 2 * math.hypot(first_error, now_error))": "If the first steps are negative, a loss below them is below half of their size, too.",
        "_has_decreased: return surely or now < 0.5 * first or now < 0.5 * abs(state['start'])": "Differs only if the first steps are negative on average and the very first loss is close to zero.",
        "_has_decreased: return surely or now < 0.5 * abs(first) or now < 0.5 * state['start']": "Differs only if the very first loss is negative and the other first steps are positive.",
        "_has_lost_progress: if gained < 0:": "Without progress the next condition is false anyway.",
        "_has_lost_progress: sure = lost >= 2 * math.hypot(errors[best], errors[-1]) and gained > 4 * math.hypot(errors[best], first_error)": TIE,
        "_has_lost_progress: sure = lost > 2 * math.hypot(errors[best], errors[-1]) and gained >= 4 * math.hypot(errors[best], first_error)": TIE,
        "moments: return (mean, math.sqrt(variance / max(count - 1, 2)))": "A block has four losses, the first steps three.",
    },
    "engine.py": {
        "StepEngine._doubt: self._pause, self._next_look = (FIRST_PAUSE, 1)": "The step after it is at least step 1.",
    },
    "policy/ladders.py": {
        "LadderState: healthy_steps: int = 1": "Of a kind that has no state yet only the rung is read.",
        "Policy.last_rung: return self.rung(kind, position - 1)": "At position 0 all that is asked about the last rung leads to position 0 again.",
        "decide: if False:": "A shortcut: the rest gives the same.",
    },
    "step/lr_factor.py": {
        "LRFactor.__init__: self.taken = 1": "It is read after a first reduction, which sets it to 0.",
        "LRFactor.effective_lr: return lr if -math.inf < lr <= 0 else math.inf": "A learning rate of 0 has been returned before.",
        "LRFactor.effective_lr: return lr if -math.inf < lr < 1 else math.inf": "Those from 0 on have been returned before.",
        "LRFactor.current_factor: if False:": "A shortcut: no learning rate exceeds an infinite ceiling.",
        "LRFactor.current_factor: return self.factor * (self.ceiling / highest if highest >= self.ceiling else 1.0)": "At equality the quotient is 1.",
    },
    "step/snapshots.py": {
        "Snapshots.of: here = all((p.device.type == 'cpu' for p in optimizer_params(self.optimizer)))": "Without a newest snapshot None is returned anyway.",
        "local_state: return {k: local(v) for k, v in state.items()}": "`local` returns what is no DTensor as it is.",
        "local_state: return {k: v for k, v in state.items()}": SHARDED,
        "put_back: state[key] = copy.deepcopy(value)": "Differs under sharding and on accelerators alone (`tests/distributed`).",
    },
}
