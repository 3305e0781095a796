from __future__ import annotations

import lightning_gradguard
from lightning_gradguard import detectors, remedies


def test_every_public_name_resolves_and_nothing_else_is_public() -> None:
    assert dir(lightning_gradguard) == sorted(lightning_gradguard.__all__)
    assert sorted(lightning_gradguard.__all__) == sorted([*lightning_gradguard._EXPORTS, "__version__"])
    for name in lightning_gradguard.__all__:
        assert getattr(lightning_gradguard, name) is not None


def test_folders_export_what_they_define() -> None:
    for package in (detectors, remedies):
        for name in package.__all__:
            assert getattr(package, name) is not None
    assert {type(d).__name__ for d in detectors.DETECTORS} <= set(detectors.__all__)
