"""Flow `inspect-packages`: sizes, import times and licences of the installed Python distributions.

Three independent sources inspect a sample of the largest in parallel; the rows are merged, judged and stored in SQLite.
A strict policy refuses the stored rows, and they are removed again. The caller says where the file is.
"""

import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import timedelta
from importlib import metadata
from inspect import getmodulename
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field

from orchestrator import FlowBuilder, FlowState, Node, NodeContext, RetryPolicy, SharedRateLimiter, Terminal, manual

In = TypeVar("In")
Out = TypeVar("Out")
LANES = 4
IMPORT_LIMIT_S = 5.0
BUSY_S = 0.2
MIB = 1024 * 1024
SUMMARY_CHARACTERS = 200
LICENCE_CHARACTERS = 40

# Runs in a fresh interpreter, where nothing is imported yet. It exits at once, because exit handlers and threads that a
# module starts are no part of its import.
TIME_ONE_IMPORT = """
import os, sys, time
began = time.perf_counter()
__import__(sys.argv[1])
os.write(1, b"\\n%.3f" % ((time.perf_counter() - began) * 1000))
os._exit(0)
"""

SCHEMA = """
CREATE TABLE IF NOT EXISTS packages (
    receipt TEXT NOT NULL, run_id TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    files INTEGER NOT NULL, bytes INTEGER NOT NULL, import_ms REAL, licence TEXT, requires INTEGER NOT NULL,
    author TEXT NOT NULL, summary TEXT NOT NULL, findings TEXT NOT NULL,
    PRIMARY KEY (receipt, name)
);
CREATE TABLE IF NOT EXISTS verdicts (receipt TEXT PRIMARY KEY, run_id TEXT NOT NULL, branch TEXT, lines TEXT);
"""


class Policy(BaseModel):
    """Thresholds of findings, and whether a finding refuses the run."""

    heavy_mib: float = 20.0
    slow_ms: float = 150.0
    strict: bool = False


class Inspection(BaseModel):
    """The run's input: a SQLite file that every worker can reach, how many distributions to look at, and the policy."""

    database: str
    sample: int = Field(default=24, ge=1, le=200)
    policy: Policy = Policy()


class Candidate(BaseModel):
    """A distribution in the sample; one without a module has nothing to import."""

    name: str
    version: str
    module: str | None


class Sample(BaseModel):
    """The distributions that a run inspects, largest first, and the number of installed ones."""

    chosen: list[Candidate]
    installed: int


class Disk(BaseModel):
    """The files of a distribution's RECORD that are on disk."""

    files: int
    bytes: int


class Description(BaseModel):
    """A distribution's own metadata; `requires` leaves out optional requirements."""

    licence: str | None
    requires: list[str]
    author: str
    summary: str


class Timing(BaseModel):
    """The time of an import in a fresh interpreter, or the reason why it did not finish."""

    import_ms: float | None = None
    error: str = ""


class Row(Disk, Description, Timing):
    """Everything known about one distribution."""

    name: str
    version: str
    findings: list[str] = []


class Report(BaseModel):
    """The rows of a run, those with findings first, then by weight."""

    rows: list[Row]
    installed: int
    policy: Policy

    def flagged(self) -> list[Row]:
        """Return the rows with a finding."""
        return [row for row in self.rows if row.findings]


class Verdict(BaseModel):
    """The branch that the run took, and its findings."""

    branch: Literal["review list", "clean bill"]
    lines: list[str]


class Receipt(BaseModel):
    """The number of stored rows, and their key."""

    key: str
    rows: int


# --- choosing -------------------------------------------------------------------------------------------------------


def choose_sample(inspection: Inspection) -> Sample:
    """Choose the largest distributions by the sizes in their RECORD, without looking at the disk."""
    # Python imports the first of two copies on the path.
    found = {dist.name: dist for dist in reversed(list(metadata.distributions())) if dist.name}
    largest = sorted(found.values(), key=lambda dist: (-_recorded_bytes(dist), dist.name))
    chosen = [
        Candidate(name=dist.name, version=dist.version, module=find_module(dist))
        for dist in largest[: inspection.sample]
    ]
    return Sample(chosen=chosen, installed=len(found))


def find_module(dist: metadata.Distribution) -> str | None:
    """Return the top module of a distribution: the one named like it, else the first public one, else None."""
    tops = set()
    for file in dist.files or ():
        name, *inner = file.parts
        if not inner:
            tops.add(getmodulename(name) or "")
        elif len(inner) == 1 and getmodulename(inner[0]) == "__init__":
            tops.add(name)
    like_it = re.sub(r"[-.]", "_", dist.name).lower()
    public = (top for top in tops if top.isidentifier() and not top.startswith("_"))
    return min(public, key=lambda top: (top.lower() != like_it, top), default=None)


def _recorded_bytes(dist: metadata.Distribution) -> int:
    return sum(file.size or 0 for file in dist.files or ())


# --- the three sources ----------------------------------------------------------------------------------------------


def inspect_disk(names: list[str]) -> dict[str, Disk]:
    """Measure the files on disk: RECORD does not know what was compiled, removed or changed since."""
    return {name: _weigh(metadata.distribution(name)) for name in names}


def _weigh(dist: metadata.Distribution) -> Disk:
    sizes = []
    for file in dist.files or ():
        try:
            sizes.append(Path(file.locate()).stat().st_size)
        except OSError:
            continue  # recorded but missing, or not readable: it counts as nothing
    return Disk(files=len(sizes), bytes=sum(sizes))


def read_metadata(names: list[str]) -> dict[str, Description]:
    """Read licence, requirements and author from each distribution's metadata."""
    return {name: describe(metadata.distribution(name)) for name in names}


def describe(dist: metadata.Distribution) -> Description:
    """Return a distribution's metadata; missing fields are empty, a missing licence is None."""

    def field(name: str) -> str:
        return (dist.metadata[name] or "").strip() if name in dist.metadata else ""

    needed = [re.split(r"[^\w.-]", text, maxsplit=1)[0] for text in dist.requires or () if "extra ==" not in text]
    return Description(
        licence=_find_licence(field, dist.metadata.get_all("Classifier") or []),
        requires=list(dict.fromkeys(needed)),  # one name may have a line for each platform
        author=(field("Author") or field("Author-email"))[:SUMMARY_CHARACTERS],
        summary=field("Summary")[:SUMMARY_CHARACTERS],
    )


def _find_licence(field: Callable[[str], str], classifiers: list[str]) -> str | None:
    """Return the licence expression, else the classifier, else the first line of the free text."""
    classified = [text.split(" :: ")[-1] for text in classifiers if text.startswith("License ::")]
    free_text = field("License").partition("\n")[0].strip()
    return (field("License-Expression") or next(iter(classified), "") or free_text)[:LICENCE_CHARACTERS] or None


def time_imports(modules: dict[str, str]) -> dict[str, Timing]:
    """Time the imports one after the other, each in a fresh interpreter; a failing import is a result, not an error."""
    return {name: time_import(module) for name, module in modules.items()}


def time_import(module: str) -> Timing:
    """Import one module in a fresh interpreter, for at most `IMPORT_LIMIT_S`.

    Args:
        module: Name of the top module.

    Returns:
        Milliseconds of the import alone, without the start of the interpreter.
    """
    # -I: neither the working directory nor PYTHONPATH shadows a module; -B: no byte code file is left behind.
    command = [sys.executable, "-I", "-B", "-c", TIME_ONE_IMPORT, module]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=IMPORT_LIMIT_S, check=True
        )
        return Timing(import_ms=float(ended.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return Timing(error=f"took longer than {IMPORT_LIMIT_S:g} s")
    except subprocess.CalledProcessError as error:
        last_words = error.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {error.returncode}"]
        return Timing(error=last_words[-1][:SUMMARY_CHARACTERS])
    except (IndexError, ValueError):
        return Timing(error="it ended the interpreter")


# --- merging and deciding -------------------------------------------------------------------------------------------


def merge_sources(
    sample: Sample,
    disk: dict[str, Disk],
    descriptions: dict[str, Description],
    timings: dict[str, Timing],
    policy: Policy,
) -> Report:
    """Make one row of each distribution, with the policy's findings."""
    rows = []
    for chosen in sample.chosen:
        timing = timings.get(chosen.name, Timing())
        row = Row(
            name=chosen.name,
            version=chosen.version,
            **disk[chosen.name].model_dump(),
            **descriptions[chosen.name].model_dump(),
            **timing.model_dump(),
        )
        row.findings = find_faults(row, policy)
        rows.append(row)
    rows.sort(key=lambda row: (-len(row.findings), -row.bytes, row.name))
    return Report(rows=rows, installed=sample.installed, policy=policy)


def find_faults(row: Row, policy: Policy) -> list[str]:
    """Return the policy's findings in a row: any of heavy, slow, import fails, no licence."""
    faults = {
        "heavy": row.bytes > policy.heavy_mib * MIB,
        "slow": row.import_ms is not None and row.import_ms > policy.slow_ms,
        "import fails": bool(row.error),
        "no licence": row.licence is None,
    }
    return [fault for fault, is_there in faults.items() if is_there]


def list_review(report: Report) -> Verdict:
    """List the distributions to review, by kind of finding."""
    limits = {"heavy": f" (over {report.policy.heavy_mib:g} MiB)", "slow": f" (over {report.policy.slow_ms:g} ms)"}
    by_fault: dict[str, list[str]] = {}
    for row in report.flagged():
        for fault in row.findings:
            by_fault.setdefault(fault, []).append(row.name)
    lines = [f"{fault}{limits.get(fault, '')}: {', '.join(names)}" for fault, names in by_fault.items()]
    return Verdict(branch="review list", lines=lines)


def sign_clean_bill(report: Report) -> Verdict:
    """State that there is nothing to review."""
    return Verdict(branch="clean bill", lines=[f"nothing found in {len(report.rows)} distributions"])


# --- storing and checking -------------------------------------------------------------------------------------------


@contextmanager
def transaction(database: str) -> Iterator[sqlite3.Connection]:
    """Hold the file's writer lock until the block ends; all of its writes are kept, or none.

    Raises:
        sqlite3.OperationalError: Another process holds the lock for longer than `BUSY_S`.
    """
    with closing(sqlite3.connect(database, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in filter(str.strip, SCHEMA.split(";")):
            connection.execute(statement)
        yield connection
        connection.execute("COMMIT")  # closing without it rolls back


def store_rows(ctx: NodeContext, database: str, report: Report, verdict: Verdict) -> Receipt:
    """Store rows and verdict under the node's idempotency key: a second attempt writes the same rows again."""
    key = ctx.idempotency_key
    values = [
        (
            *(key, ctx.run_id, row.name, row.version, row.files, row.bytes, row.import_ms, row.licence),
            *(len(row.requires), row.author, row.summary, ", ".join(row.findings)),
        )
        for row in report.rows
    ]
    with transaction(database) as connection:
        connection.executemany("INSERT OR REPLACE INTO packages VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", values)
        connection.execute(
            "INSERT OR REPLACE INTO verdicts VALUES (?,?,?,?)",
            (key, ctx.run_id, verdict.branch, "\n".join(verdict.lines)),
        )
    return Receipt(key=key, rows=len(values))


def remove_rows(ctx: NodeContext, database: str) -> None:
    """Remove the run's rows; by run and not by receipt, because a lost attempt left no receipt."""
    with transaction(database) as connection:
        connection.execute("DELETE FROM packages WHERE run_id = ?", (ctx.run_id,))
        connection.execute("DELETE FROM verdicts WHERE run_id = ?", (ctx.run_id,))


def judge_database(error: Exception) -> str:
    """Retry only what SQLite could not do just now, such as write while another process does."""
    return "retryable" if isinstance(error, sqlite3.OperationalError) else "terminal"


def check_policy(database: str, receipt: Receipt, policy: Policy) -> int:
    """Check the stored rows, and not those that were meant to be stored, against the policy.

    Returns:
        The number of stored rows.

    Raises:
        Terminal: Rows are missing, or the policy is strict and there are findings; a retry cannot help.
    """
    with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection:
        stored = connection.execute("SELECT name, findings FROM packages WHERE receipt = ?", (receipt.key,)).fetchall()
    if len(stored) != receipt.rows:
        raise Terminal(f"{receipt.rows} rows were stored and {len(stored)} are there")
    flagged = [f"{name} ({findings})" for name, findings in stored if findings]
    if policy.strict and flagged:
        raise Terminal(f"the strict policy refuses {len(flagged)} of {len(stored)} stored rows: {', '.join(flagged)}")
    return len(stored)


# --- the flow -------------------------------------------------------------------------------------------------------

# Interpreters that start at the same moment compete for the disk and measure each other instead of the import. So over
# all workers one lane starts every half second; within a lane the interpreters run one after the other.
interpreters = SharedRateLimiter("interpreter-starts", 2, per=timedelta(seconds=1), burst=1)


def _patient(node: Node[In, Out]) -> Node[In, Out]:
    """Return a node that retries for a while: the file has one writer at a time, and other programs write to it too."""
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=500), maximum_attempts=8)
    return node.with_retry(policy).with_error_classifier(judge_database)


def _names(state: FlowState) -> list[str]:
    return [candidate.name for candidate in state.get(choose).chosen]


def _lane(number: int) -> Node[Any, dict[str, Timing]]:
    def own_share(state: FlowState) -> dict[str, str]:
        mine = state.get(choose).chosen[number::LANES]
        return {candidate.name: candidate.module for candidate in mine if candidate.module}

    node = Node(f"time-imports-{number + 1}", time_imports)
    return node.with_input_func(own_share).with_shared_rate_limit(interpreters)


def _sources(state: FlowState) -> Mapping[str, Any]:
    return {
        "sample": state.get(choose),
        "disk": state.get(disk),
        "descriptions": state.get(descriptions),
        "timings": {name: timing for lane in lanes for name, timing in state.get(lane).items()},
        "policy": state.input(Inspection).policy,
    }


def _filing(state: FlowState) -> Mapping[str, Any]:
    return {
        "database": state.input(Inspection).database,
        "report": state.get(merge),
        "verdict": state.get("verdict", Verdict),
    }


def _stored(state: FlowState) -> Mapping[str, Any]:
    given = state.input(Inspection)
    return {"database": given.database, "receipt": state.get(store), "policy": given.policy}


choose = Node("choose-sample", choose_sample).with_input_func(lambda state: state.input(Inspection)).as_("sample")
disk = Node("inspect-disk", inspect_disk).with_input_func(_names).as_("disk")
descriptions = Node("read-metadata", read_metadata).with_input_func(_names).as_("descriptions")
lanes = [_lane(number) for number in range(LANES)]
merge = Node("merge-sources", merge_sources).with_input_func(_sources).as_("report")
review = Node("list-review", list_review).with_input_func(lambda state: state.get(merge)).as_("verdict")
clean = Node("sign-clean-bill", sign_clean_bill).with_input_func(lambda state: state.get(merge)).as_("verdict")
remove = _patient(Node("remove-rows", remove_rows)).with_input_func(lambda state: state.input(Inspection).database)
store = (
    _patient(Node("store-rows", store_rows))
    .with_input_func(_filing)
    .as_("receipt")
    # "started": a worker that dies after SQLite's commit leaves rows and no output.
    .on_error(remove, when="started")
)
check = _patient(Node("check-policy", check_policy)).with_input_func(_stored)

flow = (
    FlowBuilder("inspect-packages")
    .takes(Inspection)
    .triggered_by(manual("demo"))
    .then(choose)
    .then_parallel("ask-sources", disk, descriptions, *lanes)
    .then(merge)
    .when(lambda state: bool(state.get(merge).flagged()), name="needs-review")
    .then(review)
    .otherwise(clean)
    .then(store)
    .then(check)
    .returns(merge)
    .build()
)
