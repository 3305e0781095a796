"""Small training programs that fail, each with published cures, applied and measured.

* `base`: what a `Case` consists of: `Program`, `Symptom`, `Cure`.
* `cases/`: one module for each case, which defines `CASE`.
* `registry`: finds the cases, also those of other packages.
* `running`: trains a case; `measures` computes its symptom.
* `learner`, `nets`, `data`: what the cases train, and on what.
* `tables`: cards and tables for the terminal.

Other packages add cases by the entry-point group `gradguard.zoo`. Its objects are `Case`s, or modules that
define one as `CASE`.
"""

from __future__ import annotations

from typing import Any

from lightning_gradguard.extras import needed_for
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
    """The description of a case, to be printed with rich: `rich.print(show("deep_sigmoid"))`."""
    with needed_for("`zoo.show`"):
        from lightning_gradguard.zoo.tables import card

    return card(get_case(case) if isinstance(case, str) else case)
