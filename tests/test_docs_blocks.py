"""Every Python block in `docs` runs, page by page, and prints what the page says; YAML blocks make guards."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from runs import Faults, Net, loader
from torch.utils.data import DataLoader

from lightning_gradguard import GradGuard

DOCS = Path(__file__).parent.parent / "docs"
#: A Python block, and the text that it prints if a block of text follows.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]
#: What a page assumes to have happened before.
BEFORE = {
    "bad_batches.md": """
trainer = Trainer(callbacks=[GradGuard(save_bad_batches="bad_batches"), Faults({2: float("nan")})])
trainer.fit(module, loader)
trainer.save_checkpoint("last.ckpt")
dataset, trainer = loader.dataset, Trainer(max_epochs=2, callbacks=[GradGuard()])
"""
}


def quiet_trainer(**settings: Any) -> pl.Trainer:
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, logger=False, accelerator="cpu", max_epochs=1)
    return pl.Trainer(**{**quiet, **settings})


@pytest.fixture(autouse=True)
def _as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A directory of its own, in which modules are found; messages go where they went before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known, log = set(sys.modules), logging.getLogger("lightning_gradguard")
    handlers, level = list(log.handlers), log.level
    yield
    for handler in set(log.handlers) - set(handlers):
        handler.close()
    log.handlers[:] = handlers
    log.setLevel(level)
    for name in set(sys.modules) - known:
        if name.startswith("gradguard_extras"):
            del sys.modules[name]


def yaml_blocks(key: str) -> list[str]:
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    return re.findall(rf"^```yaml\n({key}:.*?)^```", page, re.M | re.S)


def missing(code: str) -> list[str]:
    """Optional packages that a block imports and that are not installed."""
    imported = re.findall(r"^\s*(?:import|from) (\w+)", code, re.M)
    return [name for name in imported if importlib.util.find_spec(name) is None]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"Trainer": quiet_trainer, "module": Net(), "loader": loader(), "guard": GradGuard()}
    names |= {"GradGuard": GradGuard, "Faults": Faults, "DataLoader": DataLoader, "torch": torch}
    names["__name__"] = "page"
    exec(BEFORE.get(page.name, ""), names)
    for code, printed in BLOCK.findall(page.read_text(encoding="utf-8")):
        if file := re.match(r"# (\w+/\w+\.py)\n", code):
            Path(file[1]).parent.mkdir(exist_ok=True)
            Path(file[1]).write_text(code)
            importlib.invalidate_caches()
        elif not missing(code):
            capsys.readouterr()
            exec(compile(code, f"{page.name}: {code.splitlines()[0]}", "exec"), names)
            assert not printed or capsys.readouterr().out.endswith(printed)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI's own
@pytest.mark.parametrize("block", yaml_blocks("trainer"))
def test_the_yaml_of_lightning_cli_makes_a_guard(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("pytorch_lightning.cli")
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # LightningCLI warns of arguments that it does not use
    Path("config.yaml").write_text(block)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    built = cli.LightningCLI(
        Net, run=False, args=["--config=config.yaml", "--seed_everything=false"], trainer_defaults=quiet
    )
    (guard,) = [callback for callback in built.trainer.callbacks if isinstance(callback, GradGuard)]
    assert guard.policy.name in ("protect", "cautious")
    assert len(guard.policy.ladders) > 1


def test_the_yaml_of_hydra_makes_a_guard() -> None:
    hydra = pytest.importorskip("hydra")
    (block,) = yaml_blocks("callbacks")
    (guard,) = hydra.utils.instantiate(yaml.safe_load(block))["callbacks"]
    assert guard.policy.name == "cautious"


def test_the_notebook_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    notebook = nbformat.read(DOCS / "tour.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3").execute()
    printed = ["".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in notebook.cells]
    assert any("[700, 701, 702]" in text for text in printed)
