"""COLLECT: at which steps activation statistics and update-to-weight ratios are sampled."""

from __future__ import annotations


class SampleClock:
    """Samples at steps 0, 1, 2, 4, 8 and so on, and at every multiple of `every`.

    A sampled update is that of one whole step: where an optimizer evaluates its closure several times in one step
    (LBFGS), only the first evaluation starts a sample, and none starts while a step is still awaited.

    Args:
        every: Steps between two samples later on.

    Example:
        >>> clock = SampleClock(50)
        >>> [step for step in range(70) if clock.is_due(step)]
        [0, 1, 2, 4, 8, 16, 32, 50, 64]
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.next_update = 0  # step of the next sampled update; an earlier one of `is_due` is taken as well
        self._evaluations = 0  # of the closure in this step
        self._awaited = False  # whether a step that was let through has not happened yet

    def is_due(self, step: int) -> bool:
        """Whether a step belongs to the fixed schedule."""
        return step % self.every == 0 or step & (step - 1) == 0

    def update_is_due(self, step: int, taken: bool, cancelled: bool) -> bool | None:
        """Whether the update of this step is to be measured; None where a running measurement goes on.

        Args:
            step: The step about to happen.
            taken: Whether the optimizer will really step.
            cancelled: Whether the guard has cancelled the step.
        """
        due = (step >= self.next_update or self.is_due(step)) and taken and not self._awaited
        self._awaited = taken
        first = self._evaluations == 0 or cancelled
        self._evaluations += 1
        if not first:
            return None
        if due:
            self.next_update = next_multiple(step, self.every)
        return due

    def step_begins(self) -> None:
        """The optimizer begins its step: the next evaluation is the first one."""
        self._evaluations = 0

    def step_happened(self) -> None:
        """The optimizer has stepped."""
        self._awaited = False


def next_multiple(step: int, every: int) -> int:
    """The first multiple of `every` after `step`: the schedule stays the same whatever happened before.

    Example:
        >>> next_multiple(50, 50), next_multiple(51, 50)
        (100, 100)
    """
    return (step // every + 1) * every
