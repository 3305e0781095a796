"""Shared by all tests: quiet runs, one thread, a tiny module, and `--slow`."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

#: Scripts that tests start in processes of their own.
collect_ignore = ["distributed", "resume_run.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long forms of tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="long form; run with --slow"))


@pytest.fixture(autouse=True)
def _quiet_and_reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
