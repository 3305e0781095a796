"""What a notebook shows of a guard: tables in HTML, the tab's figure, and a DataFrame of the recorded steps."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Faults, Net, files, fit

from lightning_gradguard import GradGuard
from lightning_gradguard.findings import Finding, Incident
from lightning_gradguard.record.incident_table import Incidents
from lightning_gradguard.record.report import Report


def guarded(folder: Path, **options: Any) -> GradGuard:
    guard = GradGuard(**options)
    fit(Net(), Faults({20: math.nan}), guard, logger=files(folder))
    return guard


def test_guard_report_and_incidents_are_tables() -> None:
    guard = GradGuard(name="mine")
    fit(Net(), Faults({20: math.nan}), guard)
    for shown in (guard, guard.report(), guard.incidents):
        page = shown._repr_html_()
        assert page.count("<tr>") == 2
        assert ">nonfinite</td>" in page
        assert ">SkipStep</td>" in page
        assert "clean the samples" in page
    assert "GradGuard: 40 steps, 1 incident(s): 1 nonfinite; recovered." in guard._repr_html_()
    assert repr(guard) == "GradGuard(policy='protect', 29 detectors, clip=None, name='mine')"


def test_names_and_details_are_no_html() -> None:
    incident = Incident.start(Finding("<b>", 7, ("<i>",), detail="<script>"))
    shown = Incidents([incident])._repr_html_() + Report(9, (incident,), verdict="<hr>")._repr_html_()
    assert not any(tag in shown for tag in ("<b>", "<i>", "<script>", "<hr>"))


@pytest.mark.parametrize("options", [{}, {"name": "mine"}])
def test_plot_is_the_figure_of_the_tab(options: dict[str, Any], tmp_path: Path) -> None:
    figure = guarded(tmp_path, **options).plot()
    kinds = [trace.type for trace in figure.data]
    assert "heatmap" in kinds
    heatmap = figure.data[kinds.index("heatmap")]
    assert np.shape(heatmap.z) == (3, 40)  # layers, steps


def test_to_pandas_has_every_step_and_layer(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    guard = guarded(tmp_path)
    table = guard.to_pandas()
    assert list(table.index) == list(range(40))
    layers = guard.last_report.stats.layers.names  # type: ignore[union-attr]
    assert list(table.columns) == ["loss", "lr", "grad_norm", *(f"grad_norm/{name}" for name in layers)]
    last = guard.last_report.stats  # type: ignore[union-attr]
    assert table.iloc[-1].to_list() == pytest.approx([last.loss, last.lr, last.global_norm, *last.grad_norm])
    assert np.flatnonzero(table["grad_norm"].isna()).tolist() == [20]


def test_without_a_recording_the_message_says_what_is_needed(tmp_path: Path) -> None:
    guard = GradGuard()
    fit(Net(), guard, limit_train_batches=2)
    for show in (GradGuard().plot, guard.plot, guarded(tmp_path, record=False).plot):
        with pytest.raises(
            ValueError, match=r"a logger or GradGuard\(log_dir=...\), and with GradGuard\(record=True\)"
        ):
            show()
    with pytest.raises(ValueError, match=r"`GradGuard.plot\(optimizer=...\)` must be one of \[''\], got '1'"):
        guarded(tmp_path / "recorded").plot("1")


def test_without_pandas_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(tmp_path)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"GradGuard.to_pandas\(\) needs pandas, .*: pip install 'pandas'"):
        guard.to_pandas()
