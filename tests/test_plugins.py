"""Other distributions offer detectors, remedies, fixes and cases; what cannot join is named and left out."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import venv
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_gradguard import GradGuard, fixes, remedies, zoo
from lightning_gradguard.detectors import DETECTORS, list_detectors

ROOT = Path(__file__).parent.parent
EXTENDING = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
#: The files of the package in `docs/extending.md`: each block that begins with a comment that holds a path.
FILES = {
    path: code
    for _, path, code in re.findall(r"^```(python|toml)\n# (\S+)\n(.*?)^```", EXTENDING, flags=re.DOTALL | re.MULTILINE)
}

MODULE = """
from dataclasses import dataclass, replace
from lightning_gradguard import detectors, remedies, zoo
from lightning_gradguard.fixes import Change

@dataclass(frozen=True)
class Quiet(detectors.AbstractDetector):
    kind = "quiet"
    name: str = "quiet"

    def init(self):
        return {}

    def update(self, state, stats):
        return state, ()

class Nothing(remedies.AbstractRemedy):
    def apply(self, finding, step):
        return None

def tiny_fix(model):
    return (Change("", "before", "after"),)

instance = Quiet(name="another")
reserved = Quiet(name="loss_trend")
CASE = replace(zoo.get_case("lr_too_low"), name="tiny_case", title="from outside")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Makes a distribution visible that offers objects of `MODULE`, as an installer would."""

    def write(group: str, points: dict[str, str]) -> None:
        info = tmp_path / "tiny_plugins-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plugins\nVersion: 1.0\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items()))
        (tmp_path / "tiny_plugins.py").write_text(MODULE)

    monkeypatch.syspath_prepend(str(tmp_path))
    list_detectors.cache_clear()
    yield write
    list_detectors.cache_clear()
    sys.modules.pop("tiny_plugins", None)


def test_detectors_join_after_the_built_in_ones_and_are_named_once(install, caplog) -> None:
    install("gradguard.detectors", {"b": "tiny_plugins:instance", "a": "tiny_plugins:Quiet"})
    with caplog.at_level("INFO", logger="lightning_gradguard"):
        guards = [GradGuard(), GradGuard()]
    for guard in guards:
        assert guard.detectors[: len(DETECTORS)] == DETECTORS
        assert [detector.name for detector in guard.detectors[len(DETECTORS) :]] == ["quiet", "another"]
    assert [record.message for record in caplog.records] == [
        "GradGuard also runs the installed detectors 'quiet' of tiny-plugins, 'another' of tiny-plugins."
    ]
    assert GradGuard(detectors=DETECTORS).detectors == DETECTORS


@pytest.mark.parametrize(
    ("group", "target", "reason"),
    [
        ("detectors", "tiny_plugins.missing", "ModuleNotFoundError: No module named"),
        ("detectors", "tiny_plugins:tiny_fix", "a detector must extend `AbstractDetector`"),
        ("detectors", "lightning_gradguard.detectors:Exploding", "the name 'exploding' is taken"),
        ("detectors", "tiny_plugins:reserved", "the name 'loss_trend' is taken"),
        ("remedies", "tiny_plugins:instance", "a remedy must be a class that extends `AbstractRemedy`"),
        ("fixes", "tiny_plugins:instance", "a fix must be callable"),
        ("fixes", "tiny_plugins:absent", "AttributeError: module 'tiny_plugins' has no attribute 'absent'"),
        ("zoo", "tiny_plugins:tiny_fix", "a zoo case must be a `zoo.Case`"),
        ("zoo", "lightning_gradguard.zoo.cases.lr_too_low", "the name 'lr_too_low' is taken"),
    ],
)
def test_what_cannot_join_is_left_out_with_the_reason(install, group: str, target: str, reason: str) -> None:
    ask = {
        "detectors": list_detectors, "remedies": remedies.list_remedies, "fixes": fixes.list_fixes,
        "zoo": zoo.list_cases,
    }[group]  # fmt: skip
    before = list(ask())
    install(f"gradguard.{group}", {"it": target})
    list_detectors.cache_clear()
    with pytest.warns(
        UserWarning, match=re.escape(f"'it' of tiny-plugins (gradguard.{group}: {target}) is left out")
    ) as told:
        assert list(ask()) == before
    assert reason in str(told[0].message)


def test_a_name_of_this_package_is_never_replaced(install) -> None:
    install("gradguard.fixes", {"he": "tiny_plugins:tiny_fix"})
    with pytest.warns(UserWarning, match="the name 'he' is taken"):
        assert fixes.list_fixes()["he"] is fixes.he


@pytest.mark.parametrize("group", ["zoo", "fixes"])
def test_the_old_names_of_groups_still_work(install, group: str) -> None:
    target = {"zoo": "tiny_plugins", "fixes": "tiny_plugins:tiny_fix"}[group]
    install(f"lightning_gradguard.{group}", {"tiny_fix": target})
    with pytest.warns(DeprecationWarning, match=f"of tiny-plugins is deprecated: use 'gradguard.{group}'"):
        found = {case.name for case in zoo.list_cases()} if group == "zoo" else set(fixes.list_fixes())
    assert found & {"tiny_case", "tiny_fix"}


def test_a_distribution_may_use_both_names_of_a_group(install) -> None:
    for group in ("gradguard.zoo", "lightning_gradguard.zoo"):
        install(group, {"tiny": "tiny_plugins"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [case.name for case in zoo.list_cases()].count("tiny_case") == 1


@pytest.mark.filterwarnings("ignore")
def test_an_installed_case_runs_like_any_other(install) -> None:
    install("gradguard.zoo", {"tiny": "tiny_plugins"})
    result = zoo.run_case("tiny_case", accelerator="cpu", max_steps=5)
    assert (result.case, result.steps) == ("tiny_case", 5)


def test_without_installed_ones_nothing_changes_and_nothing_is_reported(caplog) -> None:
    list_detectors.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_detectors() == DETECTORS
        assert "tiny_case" not in [case.name for case in zoo.list_cases()]
    assert not caplog.records


# ---------------------------------------------------------------- the package of docs/extending.md

#: Run in a fresh interpreter of the environment in which the package is installed.
LOOK = """
import json, logging, warnings
warnings.simplefilter("ignore")
from lightning_gradguard import GradGuard, fixes, remedies, zoo
records = []
logging.getLogger("lightning_gradguard").addFilter(lambda record: records.append(record.getMessage()) or True)
guard = GradGuard()
broken, cured = (zoo.run_case("large_head", cure, accelerator="cpu") for cure in (None, "zero_head"))
print(json.dumps({
    "detector": repr(guard.detectors[-1]),
    "log": records[0],
    "remedy": repr(remedies.list_remedies()["AddNoise"](std=0.1)),
    "fix": fixes.list_fixes()["zero_head"].__module__,
    "cases": [case.name for case in zoo.list_cases()][-1:],
    "symptom": [broken.symptom, cured.symptom],
    "metric": [broken.metric, cured.metric],
}))
"""


def test_the_package_of_the_docs_is_built_installed_and_found(tmp_path: Path) -> None:
    for path, code in FILES.items():
        file = tmp_path / "project" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = str(tmp_path / "env" / "bin" / "python")
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    (site / "outer.pth").write_text("\n".join(path for path in [str(ROOT), *sys.path] if path))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    run = {"check": True, "capture_output": True, "text": True, "timeout": 240, "cwd": tmp_path}
    subprocess.run([python, "-m", "pip", "install", *options, str(tmp_path / "project")], **run)
    assert (site / "gradguard_extras").is_dir()
    seen = json.loads(subprocess.run([python, "-c", LOOK], **run).stdout.splitlines()[-1])
    assert seen["detector"] == "DominantLayer(share=0.99, patience=20, name='dominant_layer')"
    assert seen["log"] == "GradGuard also runs the installed detectors 'dominant_layer' of gradguard-extras."
    assert seen["remedy"] == "AddNoise(std=0.1)"
    assert seen["fix"] == "gradguard_extras.fix"
    assert seen["cases"] == ["large_head"]
    broken, cured = seen["symptom"]
    assert broken > 10 > cured
    assert seen["metric"][1] > seen["metric"][0]


def test_the_groups_of_the_docs_are_those_that_are_read() -> None:
    assert set(re.findall(r'entry-points."(.*?)"', FILES["pyproject.toml"])) == {
        "gradguard.detectors", "gradguard.remedies", "gradguard.fixes", "gradguard.zoo",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("example", "module", "reported"),
    [
        ("custom_detector", "detector", r"dominant_layer in net\.0: .* % of the squared gradient norm \(limit 99 %\)"),
        ("custom_remedy", "remedy", r"poor_initialization in net\.0: .*; AddNoise; resolved"),
    ],
)
def test_examples_run_and_hold_the_class_of_the_docs(
    example: str, module: str, reported: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "examples" / f"{example}.py"
    shown = FILES[f"gradguard_extras/{module}.py"]
    assert shown[shown.index("@dataclass") :].strip() in path.read_text(encoding="utf-8")
    runpy.run_path(str(path), run_name="__main__")
    assert re.search(reported, capsys.readouterr().out)
