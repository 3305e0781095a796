"""Runs `gradguard` as `python -m lightning_gradguard`."""

import sys

from lightning_gradguard.cli import main

sys.exit(main())
