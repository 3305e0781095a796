"""Mutants that may survive `mutation.py`, each with the reason: file -> "function: changed line" -> reason."""

EXPLAINED: dict[str, dict[str, str]] = {}
