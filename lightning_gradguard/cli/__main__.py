"""Runs `gradguard` as `python -m lightning_gradguard.cli`."""

import sys

from lightning_gradguard.cli import main

sys.exit(main())
