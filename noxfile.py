"""Runs the test suite with the oldest supported and the newest Lightning: `nox`. Builds the site: `nox -s docs`."""

from __future__ import annotations

from pathlib import Path

import nox

#: The lower bound in pyproject.toml. Older versions repeat a batch when they resume within an epoch.
OLDEST = "2.5.0.post0"
TORCH = "2.13.0"

nox.options.sessions = ["oldest", "newest"]


def suite(session: nox.Session, lightning: str) -> None:
    """Installs one version of both Lightning distributions, prints the versions, and runs all tests."""
    session.install(f"torch=={TORCH}", f"pytorch-lightning{lightning}", f"lightning{lightning}", "-e", ".[test]")
    session.run("python", "-c", "import lightning, pytorch_lightning as p; print(p.__version__, lightning.__version__)")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=["3.10", "3.11"])
def oldest(session: nox.Session) -> None:
    suite(session, f"=={OLDEST}")


@nox.session(python=["3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    suite(session, ">=2.6.6")


@nox.session(python="3.11")
def alone(session: nox.Session) -> None:
    """`pytorch-lightning` without `lightning`: tests that do not need the other namespace."""
    session.install(f"torch=={TORCH}", "pytorch-lightning", "-e", ".", "pytest", "pytest-timeout")
    session.run("python", "-m", "pytest", "tests/test_stats.py", "tests/test_loops.py", "tests/test_names.py")


@nox.session(python="3.11")
def docs(session: nox.Session) -> None:
    """The documentation, with every link checked, in `build/site`."""
    session.install("-c", "constraints.txt", "-e", ".[docs]")
    session.run("mkdocs", "build", "--strict", *session.posargs)


#: Libraries built on Lightning, each with programs of its own in `benchmarks/libraries/programs`.
LIBRARIES = sorted(file.stem for file in Path("benchmarks/libraries/programs").glob("[!_]*.py"))


@nox.session(python="3.11")
@nox.parametrize("library", LIBRARIES, ids=LIBRARIES)
def libraries(session: nox.Session, library: str) -> None:
    """Does a guard change healthy models of a library? Each library has its own environment: their pins conflict."""
    session.install(f"torch=={TORCH}")
    session.install("-c", "constraints.txt", library.replace("_", "-"), "lightning", "-e", ".[cli,zoo]")
    session.run("python", "benchmarks/libraries", library, *session.posargs, env={"OMP_NUM_THREADS": "1"})
