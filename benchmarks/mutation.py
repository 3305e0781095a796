"""Mutation test of the core's decisions: how many small errors put into the code does no test notice?

    python benchmarks/mutation.py [--files PATTERN ...] [--sample N --seed S] [--jobs N] [--limit SHARE]

One mutant is one change to one expression or statement: another comparison, a missing clause, another constant or
default, a dropped statement or branch, another returned value. A mutant that no test notices "survives": the behavior
it changes is not tested, or the change makes no difference. Survivors of the second kind are explained in
`mutation_explained.py`; the exit code is 1 if another one survives, or if more than `--limit` of all mutants do.

Why not an existing tool: mutmut 3.8 (fork per mutant as here, 2.7 mutants a second on one core) changes neither
class-level defaults, which are the detectors' thresholds, nor module constants, nor decorated functions such as the
properties of `Policy` and `LossTrend`, and drops no statement; cosmic-ray 8.7 starts a new Python for each mutant, of
which importing torch and Lightning takes 4 seconds.

How: one process per file imports everything, collects the tests, runs them once unchanged and records which test
executes which line. Each mutant then gets a forked child in which the function has its new code, and runs the tests
that execute the changed line, fastest first, until one fails. For a change outside of functions (a default, a
constant), and for a survivor, the child imports everything again. Hypothesis draws the same examples every time.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import importlib.machinery
import inspect
import os
import pickle
import random
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import _pytest.config
import _pytest.main
import pytest
from mutation_explained import EXPLAINED

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_gradguard"

#: File in the package -> the tests that concern it, beside its doctests. Of several patterns the first counts.
TESTS = {
    "detectors/__init__.py": (),
    "detectors/*.py": ("detector*", "loss_trend", "bad_batch", "unused", "weight_growth"),
    "collect/loss_trend.py": ("decisions_loss_trend", "loss_trend", "detector_rules"),
    "collect/loss_level.py": ("outcomes", "decisions_engine"),
    "policy/ladders.py": ("decisions_policy", "policy"),
    "step/experiment.py": ("experiment",),
    "step/checkup.py": ("experiment",),
    "step/lr_factor.py": ("decisions_step", "lr_factor"),
    "step/snapshots.py": ("snapshots", "outcomes"),
    "step/actor.py": ("decisions_step", "pending_step", "remedies", "callback"),
    "record/incident_tracker.py": ("decisions_record", "findings"),
    "findings.py": ("decisions_record", "findings"),
    "engine.py": ("decisions_engine", "outcomes", "callback"),
}

#: Imported before the fork. Nothing of the package: each child imports its own.
SLOW_IMPORTS = (
    "numpy", "torch", "torch.utils.data", "torchmetrics", "pytorch_lightning", "lightning.pytorch", "hypothesis",
    "hypothesis.strategies", "pytest", "pytest_timeout", "PIL.Image", "plotly.graph_objects",
    "tensorboard.compat.proto.summary_pb2", "jsonargparse", "rich.console",
)  # fmt: skip
#: Pytest's own that only cost time here.
UNUSED_PLUGINS = ("cacheprovider", "unraisableexception", "threadexception", "faulthandler", "junitxml", "debugging")


# ---------------------------------------------------------------- mutants

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum"}
#: Keyword arguments that check or word something and decide nothing.
NOT_DECISIONS = {"strict", "stacklevel", "detail"}


@dataclass
class Mutant:
    """One change: line and function where it is, the source line after it, and the compiled module."""

    file: str
    line: int
    end: int  # last line of the changed statement, or of the head of a compound one
    where: str  # qualified name of the function or class; empty at module level
    change: str
    code: CodeType = field(repr=False)
    survives: bool = False

    @property
    def module(self) -> str:
        """Dotted name of the module."""
        return f"{PACKAGE}.{self.file[:-3].replace('/', '.')}"

    @property
    def function(self) -> CodeType | None:
        """The new code of the outermost function that is changed; None for a change outside of functions."""
        code = self.code
        for name in filter(None, self.where.split(".")):
            code = next(const for const in code.co_consts if isinstance(const, CodeType) and const.co_name == name)
            if code.co_flags & inspect.CO_OPTIMIZED:  # not the body of a class
                return code
        return None

    @property
    def reason(self) -> str | None:
        """Why it may survive, if that is known."""
        return EXPLAINED.get(self.file, {}).get(f"{self.where}: {self.change}")


def mutants_of(file: str) -> list[Mutant]:
    """Every mutant of a file, in the order of the source."""
    path = ROOT / PACKAGE / file
    tree = ast.parse(path.read_text())
    found: list[Mutant] = []

    def add(statement: ast.stmt, where: str, put: Callable[[Any], None], old: Any, new: Any) -> None:
        put(new)
        text = head(statement) if statement is not new and not isinstance(new, ast.Pass) else f"drop `{head(old)}`"
        code = compile(ast.fix_missing_locations(tree), str(path), "exec", dont_inherit=True)
        put(old)
        body = getattr(statement, "body", None)
        end = max(body[0].lineno - 1, statement.lineno) if body else statement.end_lineno or statement.lineno
        found.append(Mutant(file, statement.lineno, end, where, text, code))

    visit_body(tree, "", add)
    return found


Add = Callable[[ast.stmt, str, Callable[[Any], None], Any, Any], None]


def visit_body(node: ast.AST, where: str, add: Add) -> None:
    """Mutates the statements below a module, class, function or compound statement."""
    known = {argument.arg for argument in ast.walk(node) if isinstance(argument, ast.arg)}
    for name in ("body", "orelse", "handlers", "finalbody"):
        for index, statement in enumerate(items := getattr(node, name, ())):
            if isinstance(statement, ast.ExceptHandler):
                visit_body(statement, where, add)
                continue
            if is_skipped(statement):
                continue
            if may_drop(statement, known):
                add(statement, where, setter(items, index), statement, ast.Pass())
            known |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            if isinstance(statement, ast.Return) and not isinstance(statement.value, ast.Constant | None):
                add(statement, where, setter(statement, "value"), statement.value, ast.Constant(None))
            if isinstance(statement, ast.If | ast.While):
                for value in (True, False) if isinstance(statement, ast.If) else (False,):
                    add(statement, where, setter(statement, "test"), statement.test, ast.Constant(value))
            for put, old, new in expression_mutations(statement):
                add(statement, where, put, old, new)
            inner = f"{where}.{statement.name}".lstrip(".") if hasattr(statement, "name") else where
            visit_body(statement, inner, add)


def is_skipped(statement: ast.stmt) -> bool:
    """Imports, docstrings, `__all__`, and what only a type checker sees."""
    if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
        return True
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass) or ast.unparse(statement).startswith("__all__")


def may_drop(statement: ast.stmt, known: set[str]) -> bool:
    """Whether the rest still makes sense without it: a name's first value is needed, a later one may be dropped."""
    if isinstance(statement, ast.Assign):
        stored = [n for target in statement.targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        stored = [n for n in stored if isinstance(n.ctx, ast.Store)]
        return all(n.id in known for n in stored)
    return isinstance(statement, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete)


def expression_mutations(statement: ast.stmt) -> Iterator[tuple[Callable[[Any], None], Any, Any]]:
    """Mutations of the expressions of a statement itself, not of the statements inside it."""
    for name, value in ast.iter_fields(statement):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "exc", "targets", "target", "bases"):
            continue
        if name in ("body", "orelse", "handlers", "finalbody"):
            continue
        if isinstance(value, ast.arguments):
            for list_name in ("defaults", "kw_defaults"):
                defaults = getattr(value, list_name)
                for index, default in enumerate(defaults):
                    if default is not None:
                        yield from mutations(default, setter(defaults, index))
        elif isinstance(value, ast.expr):
            yield from mutations(value, setter(statement, name))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, ast.withitem):
                    yield from mutations(item.context_expr, setter(item, "context_expr"))


def mutations(node: Any, put: Callable[[Any], None]) -> Iterator[tuple[Callable[[Any], None], Any, Any]]:
    """The changes of an expression and of all inside it: how to set it, the old node and the new one."""
    for new in replacements(node):
        yield put, node, new
    if isinstance(node, ast.JoinedStr | ast.Lambda):
        if isinstance(node, ast.Lambda):
            yield from mutations(node.body, setter(node, "body"))
        return
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.expr):
            yield from mutations(value, setter(node, name))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.expr):
                    yield from mutations(item, setter(value, index))
                elif isinstance(item, ast.keyword) and item.arg not in NOT_DECISIONS:
                    yield from mutations(item.value, setter(item, "value"))
                elif isinstance(item, ast.comprehension):
                    yield from mutations(item.iter, setter(item, "iter"))
                    for place, condition in enumerate(item.ifs):
                        yield setter(item, "ifs"), item.ifs, item.ifs[:place] + item.ifs[place + 1 :]
                        yield from mutations(condition, setter(item.ifs, place))


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What one expression is replaced by."""
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in COMPARISONS[type(operator)]:
                    new = copy.copy(node)
                    new.ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                    yield new
        case ast.BoolOp():  # a clause less; a swap of `and` and `or` is noticed by whoever notices both
            for index in range(len(node.values)):
                rest = node.values[:index] + node.values[index + 1 :]
                yield ast.BoolOp(node.op, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield node.operand
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield ast.Constant(node.value + 1)
        case ast.Constant(value=float()):
            yield ast.Constant(2 * node.value or 1.0)
        case ast.Name() if node.id in OPPOSITES:
            yield ast.Name(OPPOSITES[node.id], node.ctx)
        case ast.Attribute() if node.attr in OPPOSITES:
            yield ast.Attribute(node.value, OPPOSITES[node.attr], node.ctx)
        case ast.Call(func=ast.Name("abs"), args=[argument]):
            yield argument


def setter(place: Any, key: Any) -> Callable[[Any], None]:
    """A function that puts a node into a field, or an item of a list."""
    if isinstance(place, list):
        return lambda new: place.__setitem__(key, new)
    return lambda new: setattr(place, key, new)


def head(statement: ast.AST) -> str:
    """A statement as source; of a compound one the first line, without its decorators."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.If | ast.For | ast.While | ast.With | ast.Try):
        statement = copy.copy(statement)
        statement.body, statement.orelse, statement.decorator_list = [ast.Pass()], [], []  # type: ignore[union-attr]
        return ast.unparse(statement).splitlines()[0]
    return ast.unparse(statement)


# ---------------------------------------------------------------- runs


@dataclass
class Recording:
    """Which test executes which lines of a file, and how long each test takes, by its node id."""

    path: str
    lines: dict[str, set[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def choose(self, mutant: Mutant) -> list[str]:
        """The tests that execute the changed lines, fastest first; for a line outside of functions all."""
        wanted = range(mutant.line, mutant.end + 1)
        tests = [test for test, lines in self.lines.items() if lines.intersection(wanted)]
        return sorted(tests or self.lines, key=lambda test: (self.seconds[test], test))

    def limit(self, tests: list[str]) -> int:
        """Seconds of processor time after which a mutant counts as noticed: it loops."""
        return 20 + int(5 * sum(self.seconds[test] for test in tests))


class Session:
    """Pytest plug-in that collects the tests of a file, records them, and runs them for each mutant of a function."""

    def __init__(self, file: str, todo: list[Mutant], jobs: int, folder: Path) -> None:
        self.todo, self.jobs, self.folder = todo, jobs, folder
        self.recording = Recording(str(ROOT / PACKAGE / file))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Instead of the tests themselves."""
        gc.freeze()
        output = self.folder / "recording"
        if wait(fork(lambda: self.record(session, output))):
            return False
        self.recording = pickle.loads(output.read_bytes())
        run_all(self.todo, self.jobs, lambda mutant, number: self.test(session, mutant, number))
        return True

    def record(self, session: pytest.Session, output: Path) -> int:
        """Runs all tests on the unchanged code."""
        session.config.pluginmanager.register(Recorder(self.recording))
        run_items(session, session.items, self.folder / "unchanged")
        output.write_bytes(pickle.dumps(self.recording))
        return int(session.testsfailed > 0)

    def test(self, session: pytest.Session, mutant: Mutant, number: int) -> int:
        """Runs the tests of a mutant; 0 if none fails."""
        exchange_code(mutant)
        tests = self.recording.choose(mutant)
        limit = self.recording.limit(tests)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        items = {item.nodeid: item for item in session.items}
        run_items(session, [items[test] for test in tests], self.folder / str(number))
        return int(session.testsfailed > 0)


class Recorder:
    """Pytest plug-in that fills a recording."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Records the lines of the test that begins."""
        lines = self.recording.lines[item.nodeid] = set[int]()

        def inside(frame: Any, event: str, _: Any) -> Any:
            lines.add(frame.f_lineno)
            return inside

        path = self.recording.path
        sys.settrace(lambda frame, event, _: inside(frame, event, _) if frame.f_code.co_filename == path else None)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds the time of setup, call or teardown."""
        seconds = self.recording.seconds
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration


class Chosen:
    """Pytest plug-in: runs only the given tests, in the given order."""

    def __init__(self, tests: list[str]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Drops the others."""
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda item: self.place[item.nodeid])


def exchange_code(mutant: Mutant) -> None:
    """Gives the function of the imported module that a mutant changes its new code."""
    assert mutant.function is not None
    live: Any = sys.modules[mutant.module]
    for name in mutant.where.split("."):
        live = vars(live)[name]
        for wrapped in ("fget", "func", "__func__", "__wrapped__"):  # property, cached_property, classmethod, cache
            live = live if isinstance(live, FunctionType | type) else getattr(live, wrapped, live)
        if isinstance(live, FunctionType):
            live.__code__ = mutant.function
            return
    raise LookupError(mutant)


def run_pytest(paths: list[str], plugin: object, basetemp: Path) -> int:
    """Pytest in this process; its exit code."""
    import hypothesis

    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", derandomize=True, database=None, deadline=None, phases=phases)
    hypothesis.settings.load_profile("mutation")
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_DEBUG_TEMPROOT": str(make(basetemp))}
    options = ["-x", "-q", "-s", "--assert=plain", "-p", "pytest_timeout"]
    options += [word for name in UNUSED_PLUGINS for word in ("-p", f"no:{name}")]
    options += ["-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
    return int(pytest.main([*options, *paths], plugins=[plugin]))


def run_items(session: pytest.Session, items: list[pytest.Item], basetemp: Path) -> None:
    """Collected tests, until one fails."""
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(make(basetemp))
    session.items = items
    with suppress(session.Failed):
        _pytest.main.pytest_runtestloop(session)


def make(folder: Path) -> Path:
    """The folder, created."""
    folder.mkdir(exist_ok=True)
    return folder


def fork(work: Callable[[], int]) -> int:
    """A child that does the work in silence; its id. The result is its exit code."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = work()
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """The exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_all(todo: list[Mutant], jobs: int, test: Callable[[Mutant, int], int]) -> None:
    """Tests each mutant in a child of its own and notes whether it survives: 0: all passed; 5: no test was run."""
    running: dict[int, Mutant] = {}
    waiting = list(enumerate(todo))[::-1]
    while waiting or running:
        if waiting and len(running) < jobs:
            number, mutant = waiting.pop()
            running[fork(partial(test, mutant, number))] = mutant
        else:
            pid, status = os.wait()
            running.pop(pid).survives = os.waitstatus_to_exitcode(status) in (0, 5)


def test_paths(file: str) -> list[str]:
    """The file itself, for its doctests, and the tests that concern it."""
    names = next((tests for pattern, tests in TESTS.items() if fnmatch(file, pattern)), ())
    tests = {path for name in names for path in (ROOT / "tests").glob(f"test_{name}.py")}
    return [f"{PACKAGE}/{file}", *(str(path.relative_to(ROOT)) for path in sorted(tests))]


def test_file(file: str, mutants: list[Mutant], jobs: int, folder: Path) -> None:
    """Sets `survives` of each mutant of a file."""
    inside = [mutant for mutant in mutants if mutant.function is not None]
    output = folder / "results"

    def host() -> int:
        session = Session(file, inside, jobs, folder)
        code = run_pytest(test_paths(file), session, folder / "host")
        output.write_bytes(pickle.dumps((session.recording, [mutant.survives for mutant in inside])))
        return code

    if code := wait(fork(host)):
        raise SystemExit(f"The unchanged tests of {file} fail (exit code {code}): {' '.join(test_paths(file))}")
    recording, survives = pickle.loads(output.read_bytes())
    for mutant, survivor in zip(inside, survives, strict=True):
        mutant.survives = survivor
    # A survivor, too, is imported again: the change may have mattered only while modules or tests were imported.
    again = [mutant for mutant in mutants if mutant.function is None or mutant.survives]
    run_all(again, jobs, partial(test_reimported, recording, folder))


def test_reimported(recording: Recording, folder: Path, mutant: Mutant, number: int) -> int:
    """Runs the tests for a change outside of functions: everything is imported with it."""
    unchanged = importlib.machinery.SourceFileLoader.get_code

    def get_code(loader: Any, name: str) -> Any:
        return mutant.code if name == mutant.module else unchanged(loader, name)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign,assignment]
    tests = recording.choose(mutant)
    limit = recording.limit(tests)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    return run_pytest(sorted({test.split("::")[0] for test in tests}), Chosen(tests), folder / f"reimported{number}")


# ---------------------------------------------------------------- report


def core_files(patterns: list[str]) -> list[str]:
    """The files with decisions, as paths in the package; of these the ones that match a pattern, if any is given."""
    files = [str(p.relative_to(ROOT / PACKAGE)) for p in sorted((ROOT / PACKAGE).rglob("*.py"))]
    core = [f for f in files if next((tests for pattern, tests in TESTS.items() if fnmatch(f, pattern)), ())]
    return [f for f in core if not patterns or any(fnmatch(f, p) for p in patterns)]


def print_report(mutants: list[Mutant], whole: bool) -> float:
    """A line a file, then each survivor; the share that survives."""
    survivors = [mutant for mutant in mutants if mutant.survives]
    print(f"{'file':<40}{'mutants':>9}{'survive':>9}{'explained':>11}")
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        left = [mutant for mutant in survivors if mutant.file == file]
        count = sum(mutant.file == file for mutant in mutants)
        print(f"{file:<40}{count:>9}{len(left):>9}{sum(mutant.reason is not None for mutant in left):>11}")
    for mutant in survivors:
        print(f"\n{mutant.file}:{mutant.line}  {mutant.where}")
        print(f"  - {' '.join(line.strip() for line in source_lines(mutant))}\n  + {mutant.change}")
        print(f"  {mutant.reason or 'NOT EXPLAINED'}")
    if whole:
        alive = {(mutant.file, f"{mutant.where}: {mutant.change}") for mutant in survivors}
        for file in dict.fromkeys(mutant.file for mutant in mutants):
            for change in EXPLAINED.get(file, {}):
                if (file, change) not in alive:
                    print(f"\nexplained, but does not survive (any more): {file}  {change}")
    share = len(survivors) / max(len(mutants), 1)
    print(f"\n{len(survivors)} of {len(mutants)} mutants survive ({100 * share:.1f} %)")
    return share


def source_lines(mutant: Mutant) -> list[str]:
    """The source that a mutant changes."""
    return (ROOT / PACKAGE / mutant.file).read_text().splitlines()[mutant.line - 1 : mutant.end]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[], help="patterns such as 'detectors/*.py'; all by default")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tested at a time")
    parser.add_argument("--limit", type=float, default=0.05, help="share of mutants that may survive")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT)]
    for name in (*SLOW_IMPORTS, *(f"_pytest.{name}" for name in _pytest.config.default_plugins)):
        importlib.import_module(name)
    gc.freeze()  # what is there before the fork is not searched for garbage, nor copied by the search
    mutants = [mutant for file in core_files(options.files) for mutant in mutants_of(file)]
    if options.sample is not None and options.sample < len(mutants):
        chosen = set(random.Random(options.seed).sample(range(len(mutants)), options.sample))
        mutants = [mutant for index, mutant in enumerate(mutants) if index in chosen]
    for file in dict.fromkeys(mutant.file for mutant in mutants):
        print(f"{file} ...", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            test_file(file, [mutant for mutant in mutants if mutant.file == file], options.jobs, Path(folder))
    share = print_report(mutants, options.sample is None)
    raise SystemExit(share > options.limit or any(m.survives and m.reason is None for m in mutants))


if __name__ == "__main__":
    fixed = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}  # sets are read in the same order every time
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | fixed)
    main()
