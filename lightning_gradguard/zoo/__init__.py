"""Programs that go wrong in their gradients, each with the cures that the documents name, applied and measured.

The folder is the registry: every module here that defines `CASE` is a case. Third parties add theirs by the
entry-point group `lightning_gradguard.zoo`, whose objects are a `Case` or a module that has one as `CASE`.
"""

from __future__ import annotations

from typing import Any

from lightning_gradguard.zoo.base import Case, Cure, Program, Symptom
from lightning_gradguard.zoo.learner import Learner
from lightning_gradguard.zoo.registry import get_case, list_cases
from lightning_gradguard.zoo.running import Result, Run, compare_case, run_case

__all__ = [
    "Case",
    "Cure",
    "Learner",
    "Program",
    "Result",
    "Run",
    "Symptom",
    "compare_case",
    "get_case",
    "list_cases",
    "run_case",
    "show",
]


def show(case: Case | str) -> Any:
    """The case's card as a rich renderable: `rich.print(show("deep_sigmoid"))`."""
    from lightning_gradguard.zoo.showing import card

    return card(get_case(case) if isinstance(case, str) else case)
