"""The package without its extras: what works, what is said about the rest, and what is imported only when needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = {"rich", "jsonargparse", "scikit_learn", "sklearn"}
FIT = """
import torch
from pytorch_lightning import Trainer
from lightning_gradguard import GradGuard
from runs import Faults, Net, loader

guard = GradGuard("repair")
callbacks = [guard, Faults({2: float("nan")})]
trainer = Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=1, callbacks=callbacks, enable_checkpointing=False)
trainer.fit(Net(), loader(20))
print(guard.report())
"""


def run(code: str, missing: set[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code in `folder`, in an environment that has every installed package but those that are missing."""
    packages = folder / "packages"
    packages.mkdir()
    for entry in (e for place in sys.path if place.endswith("-packages") for e in Path(place).iterdir()):
        if entry.name.partition("-")[0].lower() not in missing and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    path = ":".join(map(str, (ROOT, ROOT / "tests", packages)))
    return subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120, cwd=folder,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HOME": str(folder)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def without_extras(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A guarded run with TensorBoard's logger where no extra is installed, and the directory it ran in."""
    read = """
from pathlib import Path
from lightning_gradguard.show.html_report import report_data, write_html
write_html(["lightning_logs"], Path("report.html"))
print("state:", report_data(["lightning_logs"])[0]["state"])
print("shown:", [type(callback).__name__ for callback in trainer.callbacks])
from lightning_gradguard.cli import main
from lightning_gradguard import zoo
main(["report", "lightning_logs"])
for function in (zoo.show, zoo.run_case):
    try:
        function("deep_sigmoid")
    except ImportError as error:
        print(error)
"""
    folder = tmp_path_factory.mktemp("slim")
    return folder, run(FIT + read, EXTRAS, folder)


Ran = tuple[Path, subprocess.CompletedProcess[str]]


def test_guard_log_report_and_figures_need_no_extra(without_extras: Ran) -> None:
    folder, ran = without_extras
    assert ran.returncode == 0, ran.stderr
    assert "GradGuard: 20 steps, 1 incident(s): 1 nonfinite; recovered." in ran.stdout
    assert "step 2" in ran.stderr
    assert "state: recovered" in ran.stdout
    assert "Plotly.newPlot" in (folder / "report.html").read_text(encoding="utf-8")


def test_lightning_shows_what_it_shows_without_the_package(without_extras: Ran) -> None:
    assert "'TQDMProgressBar', 'ModelSummary'" in without_extras[1].stdout


def test_one_sentence_says_what_to_install(without_extras: Ran) -> None:
    _, ran = without_extras
    needs = "needs {}, which is not installed: pip install 'lightning-gradguard[{}]'".format
    assert f"gradguard report: The command {needs('jsonargparse', 'cli')}" in ran.stderr
    assert f"`zoo.show` {needs('rich', 'cli')}" in ran.stdout
    assert f"The zoo {needs('sklearn', 'zoo')}" in ran.stdout


def test_a_run_needs_neither_tensorboard_nor_plotly_nor_pillow(tmp_path: Path) -> None:
    ran = run(FIT + "print(trainer.logger)", {*EXTRAS, "tensorboard", "plotly", "pillow", "pil"}, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "1 nonfinite; recovered." in ran.stdout
    assert "CSVLogger" in ran.stdout
    assert (tmp_path / "lightning_logs" / "version_0" / "incidents.jsonl").exists()


def test_without_pillow_everything_but_pictures_is_written(tmp_path: Path) -> None:
    read = """
from lightning_gradguard.show.html_report import report_data
(data,) = report_data(["lightning_logs"])
print("state:", data["state"], "curves:", sorted(data["curves"][""]))
"""
    ran = run("import warnings; warnings.simplefilter('default')" + FIT + read, {"pillow", "pil"}, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("The picture of the heatmap needs PIL, which is not installed: pip install 'pillow'") == 1
    assert "state: recovered curves: ['clip_coefficient'" in ran.stdout


def test_plotly_and_tensorboard_are_imported_when_they_are_needed(tmp_path: Path) -> None:
    code = """
import sys
import lightning_gradguard
print(sorted({"torch", "pytorch_lightning"} & {*sys.modules}))
from pytorch_lightning import Trainer
Trainer(callbacks=[lightning_gradguard.GradGuard()], logger=False, accelerator="cpu")
print(sorted({"plotly", "tensorboard", "jsonargparse", "sklearn"} & {*sys.modules}))
"""
    ran = run(code, set(), tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "[]\n[]\n"
