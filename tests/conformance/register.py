"""The conformance register: which test shows which requirement of the SPIFFE standards.

``requirements.toml`` names the requirements, tests claim them with ``@pytest.mark.conformance("ID-1", ...)``.
The marks are read from the source: nothing is imported and no test runs.

    python -m tests.conformance.register --check    every requirement of an issuer, Workload API server or
                                                    validator has a test, every mark names a requirement, and
                                                    docs/conformance.md says so
    python -m tests.conformance.register --write    writes docs/conformance.md
"""

import argparse
import ast
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
REQUIREMENTS: Final = Path("tests/conformance/requirements.toml")
DOCUMENT: Final = Path("docs/conformance.md")

DEMANDED: Final = frozenset("IWV")
"""The roles that this software plays for workloads: each of their requirements needs a test."""
_ROLES: Final = frozenset("IWVPCKB")
_LEVELS: Final = frozenset(("M", "M!", "S", "S!", "m", "n"))
_EXCUSES: Final = frozenset(("skip", "skipif", "xfail"))


class Malformed(Exception):
    """The requirements or a test file cannot be read; the text begins with the place."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One requirement, in our own words."""

    id: str
    level: str
    roles: str
    section: str
    title: str

    @property
    def demanded(self) -> bool:
        """Whether it must have a test."""
        return bool(DEMANDED & set(self.roles))


@dataclass(frozen=True, slots=True)
class Standard:
    """One document of the standards and what it requires."""

    name: str
    title: str
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Where we leave a reference implementation, or choose what a standard leaves open."""

    ids: tuple[str, ...]
    title: str
    text: str


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A test that says of itself that it shows a requirement."""

    path: str
    line: int
    test: str
    id: str


@dataclass(frozen=True, slots=True)
class Register:
    """Requirements, decisions and claims together."""

    standards: tuple[Standard, ...]
    decisions: tuple[Decision, ...]
    claims: tuple[Claim, ...]

    def requirements(self) -> Iterator[Requirement]:
        """Every requirement, in the order of the file."""
        for standard in self.standards:
            yield from standard.requirements

    def shown(self) -> Mapping[str, Sequence[Claim]]:
        """The claims by requirement."""
        found: dict[str, list[Claim]] = defaultdict(list)
        for claim in sorted(self.claims):
            found[claim.id].append(claim)
        return found

    def problems(self) -> Iterator[str]:
        """What keeps the register from being complete and right."""
        known = {requirement.id for requirement in self.requirements()}
        for claim in sorted(self.claims):
            if claim.id not in known:
                yield f"{claim.path}:{claim.line}: {claim.test} shows {claim.id}, which is no requirement"
        for decision in self.decisions:
            for name in decision.ids:
                if name not in known:
                    yield f'{REQUIREMENTS}: decision "{decision.title}" is about {name}, which is no requirement'
        shown = self.shown()
        for requirement in self.requirements():
            if requirement.demanded and requirement.id not in shown:
                yield f"{requirement.id} ({requirement.title}) is shown by no test"


def load(root: Path) -> Register:
    """Read the requirements and the tests below ``root``.

    Raises:
        Malformed: if either cannot be read.
    """
    parsed = tomllib.loads((root / REQUIREMENTS).read_text())
    try:
        standards = tuple(
            Standard(d["name"], d["title"], tuple(Requirement(**row) for row in d["requirements"]))
            for d in parsed["document"]
        )
        decisions = tuple(
            Decision(tuple(d["ids"]), d["title"], " ".join(d["text"].split())) for d in parsed["decision"]
        )
    except (KeyError, TypeError) as exc:
        raise Malformed(f"{REQUIREMENTS}: a row lacks a member or has an unknown one: {exc}") from exc
    seen: set[str] = set()
    for row in (row for standard in standards for row in standard.requirements):
        if row.id in seen:
            raise Malformed(f"{REQUIREMENTS}: {row.id} stands twice")
        if not row.roles or not set(row.roles) <= _ROLES or not set(row.level.split("/")) <= _LEVELS:
            raise Malformed(f"{REQUIREMENTS}: {row.id} has unknown roles or level")
        seen.add(row.id)
    return Register(standards, decisions, tuple(_claims(root)))


def _claims(root: Path) -> Iterator[Claim]:
    for path in sorted((root / "tests").rglob("test_*.py")):
        relative = path.relative_to(root).as_posix()
        yield from claims_of(relative, path.read_text())


def claims_of(path: str, source: str) -> Iterator[Claim]:
    """The claims in one test file: marks on tests, on their parameters, on classes and on the module.

    Raises:
        Malformed: if the file is no Python, a mark stands where pytest does not see it or is not spelt out, or
            a test that claims something may be skipped or fail.
    """
    try:
        module = ast.parse(source, path)
    except SyntaxError as exc:
        raise Malformed(f"{path}:{exc.lineno}: {exc.msg}") from exc
    of_module = [
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["pytestmark"]
    ]
    claims: list[Claim] = []
    counted = _count(of_module) + _collect(path, module.body, of_module, claims)
    if counted != _count(module.body):
        raise Malformed(f"{path}: a conformance mark stands neither on a test, nor on a class, nor in pytestmark")
    yield from claims


def _collect(path: str, body: Sequence[ast.stmt], inherited: Sequence[ast.expr], claims: list[Claim]) -> int:
    """Append the claims of the tests in ``body``; return how many marks are their own."""
    own = 0
    for node in body:
        if isinstance(node, ast.ClassDef):
            own += _count(node.decorator_list)
            own += _collect(path, node.body, [*inherited, *node.decorator_list], claims)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            own += _count(node.decorator_list)
            marks = [*inherited, *node.decorator_list]
            ids = {name for mark in _marks(marks, "conformance") for name in _ids(path, mark)}
            if ids and any(True for excuse in _EXCUSES for _ in _marks(marks, excuse)):
                raise Malformed(f"{path}:{node.lineno}: {node.name} claims a requirement and may be skipped or fail")
            claims += [Claim(path, node.lineno, node.name, name) for name in ids]
    return own


def _marks(nodes: Iterable[ast.AST], name: str) -> Iterator[ast.AST]:
    """Every ``pytest.mark.<name>`` below the nodes: the call, or the bare attribute."""
    for top in nodes:
        called = {id(n.func) for n in ast.walk(top) if isinstance(n, ast.Call)}
        for node in ast.walk(top):
            attribute = node.func if isinstance(node, ast.Call) else node
            if isinstance(node, ast.Attribute) and id(node) in called:
                continue
            if isinstance(attribute, ast.Attribute) and ast.unparse(attribute) == f"pytest.mark.{name}":
                yield node


def _count(nodes: Iterable[ast.AST]) -> int:
    return sum(1 for _ in _marks(nodes, "conformance"))


def _ids(path: str, mark: ast.AST) -> Iterator[str]:
    arguments = mark.args if isinstance(mark, ast.Call) else []
    if not arguments or (isinstance(mark, ast.Call) and mark.keywords):
        raise Malformed(f"{path}:{getattr(mark, 'lineno', 0)}: a conformance mark names requirements, as strings")
    for argument in arguments:
        if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
            raise Malformed(f"{path}:{argument.lineno}: a conformance mark names requirements, as strings")
        yield argument.value


def render(register: Register) -> str:
    """docs/conformance.md."""
    shown = register.shown()
    demanded = [r for r in register.requirements() if r.demanded]
    done = sum(1 for r in demanded if r.id in shown)
    lines = [
        "# Conformance to the SPIFFE standards",
        "",
        "Made by `make docs` from `tests/conformance/requirements.toml` and the marks on the tests; do not edit.",
        "",
        f"Tests show {done} of {len(demanded)} requirements of an issuer, a Workload API server or a validator.",
        "",
        "Level: M must, M! must not, S should, S! should not, m may, n normative prose.  Role: I issuer, W Workload",
        "API server, V validator; beside them P publisher and C consumer of bundles, K client, B broker.",
    ]
    for standard in register.standards:
        lines += ["", f"## {standard.title}", "", f"`{standard.name}`", ""]
        lines += ["| id | level | role | § | requirement | shown by |", "|---|---|---|---|---|---|"]
        lines += [_row(r, shown.get(r.id, ())) for r in standard.requirements]
    lines += ["", "## Deliberate deviations and decisions"]
    for decision in register.decisions:
        lines += ["", f"**{decision.title}** ({', '.join(decision.ids)}).  {decision.text}"]
    return "\n".join(lines) + "\n"


def _row(requirement: Requirement, claims: Iterable[Claim]) -> str:
    up = "../" * len(DOCUMENT.parent.parts)
    tests = dict.fromkeys((claim.path, claim.test) for claim in claims)
    links = [f"[{test.removeprefix('test_').replace('_', ' ')}]({up}{path})" for path, test in tests]
    r = requirement
    cells = (r.id, r.level, " ".join(r.roles), r.section, r.title.replace("|", "\\|"), "<br>".join(links))
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Check or write, as the command line says; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.register", description="The conformance register."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--check", action="store_true", help="fail unless the register is complete and the document fresh"
    )
    what.add_argument("--write", action="store_true", help=f"write {DOCUMENT}")
    options = parser.parse_args(arguments)
    try:
        register = load(root)
    except Malformed as exc:
        print(exc, file=sys.stderr)
        return 1
    document = root / DOCUMENT
    if options.write:
        document.parent.mkdir(exist_ok=True)
        document.write_text(render(register))
        return 0
    problems = list(register.problems())
    if not document.exists() or document.read_text() != render(register):
        problems.append(f"{DOCUMENT} is stale: run make docs")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
