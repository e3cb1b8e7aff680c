"""Flows whose triggers, names or steps are wrong."""

from typing import Any

from orchestrator.definition.builder import FlowBuilder
from orchestrator.definition.policies import SharedRateLimiter
from orchestrator.definition.triggers import manual, schedule
from tests.faulty import SECOND, Faulty, Order, always, give, node


def by_clock(cron: Any, **options: Any) -> Any:
    """A schedule that is right, but for what it is given."""
    return schedule(cron, **options)


def nested(builder: Any, depth: int) -> Any:
    """Blocks inside blocks."""
    for level in range(depth):
        builder.when(always).then(node(f"n{level}"))
    for _ in range(depth):
        builder.end_when()
    return builder


def plain(name: Any, **changes: Any) -> FlowBuilder:
    """A flow that is right, but for its name."""
    return FlowBuilder(name).triggered_by(*changes.get("triggers", [manual("test")])).then(node())


NO_TRIGGER: tuple[Faulty, ...] = (
    Faulty(
        "no-trigger",
        lambda _: plain("no-trigger", triggers=[]),
        "no-trigger",
        "",
        'it has no trigger; add triggered_by(manual("api")) or triggered_by(schedule(...))',
    ),
    Faulty(
        "cron-in-words",
        lambda b: b.then(node()).triggered_by(by_clock("every day")),
        "bad-trigger",
        "",
        "schedule('every day'): the cron expression 'every day' has 2 fields; write minute, hour, day, ...",
    ),
    Faulty(
        "cron-never",
        lambda b: b.then(node()).triggered_by(by_clock("0 0 31 2 *")),
        "bad-trigger",
        "",
        "schedule('0 0 31 2 *'): the cron expression '0 0 31 2 *' never fires: ...",
    ),
    Faulty(
        "cron-seconds",
        lambda b: b.then(node()).triggered_by(by_clock("0 0 * * * *")),
        "bad-trigger",
        "",
        "schedule('0 0 * * * *'): the cron expression '0 0 * * * *' has 6 fields; ...",
    ),
    Faulty(
        "cron-number",
        lambda b: b.then(node()).triggered_by(by_clock(5)),
        "bad-trigger",
        "",
        "schedule(5): the cron expression is a int, not a str; write five fields, such as '0 */4 * * *'",
    ),
    Faulty(
        "zone",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", timezone="Mars/Olympus")),
        "bad-trigger",
        "",
        "schedule('@daily'): the time zone 'Mars/Olympus' is unknown; write an IANA name, such as 'Europe/Vienna'",
    ),
    Faulty(
        "overlap",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", overlap="maybe")),
        "bad-trigger",
        "",
        "schedule('@daily'): overlap is neither 'skip' nor 'allow' nor 'queue'",
    ),
    Faulty(
        "overlap-max-runs",
        lambda b: b.with_max_runs(2).then(node()).triggered_by(by_clock("@daily", overlap="queue")),
        "bad-trigger",
        "",
        "schedule('@daily'): overlap is 'queue', and the flow has a maximum of runs, which queues them; use 'allow'",
    ),
    Faulty(
        "trigger-priority",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", priority=True)),
        "bad-trigger",
        "",
        "schedule('@daily'): the priority is True; use a whole number from 0 to 255",
    ),
    Faulty(
        "catch-up",
        lambda b: b.then(node()).triggered_by(by_clock("@daily", catch_up=-SECOND)),
        "bad-trigger",
        "",
        "schedule('@daily'): catch_up is not a timedelta of at least 0",
    ),
    Faulty(
        "cron-string",
        lambda b: b.then(node()).triggered_by("0 0 * * *"),
        "bad-trigger",
        "",
        "'0 0 * * *' is not a trigger; use manual(label) or schedule(cron)",
    ),
    Faulty(
        "label",
        lambda b: b.then(node()).triggered_by(manual("")),
        "bad-trigger",
        "",
        "the label of manual('') cannot be shown; use printable text",
    ),
    Faulty(
        "input-needed",
        lambda b: b.takes(Order).then(node()).triggered_by(by_clock("@daily")),
        "bad-trigger",
        "",
        "schedule('@daily'): the flow takes an input, so the schedule needs one, schedule(..., input=...): ...",
    ),
    Faulty(
        "input-unfit",
        lambda b: b.takes(Order).then(node()).triggered_by(by_clock("@daily", input={"id": "x"})),
        "bad-trigger",
        "",
        "schedule('@daily'): its input does not fit what the flow takes: ...",
    ),
)

NAMES: tuple[Faulty, ...] = (
    Faulty(
        "flow-name",
        lambda _: plain("Enrich Issues"),
        "bad-name",
        "flow 'Enrich Issues'",
        "the name 'Enrich Issues' is not valid; use at most 100 characters of a-z, 0-9, _ and -, beginning ...",
    ),
    Faulty(
        "long-name",
        lambda _: plain("x" * 101),
        "bad-name",
        "flow 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
        "the name 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx... is not valid; ...",
    ),
    Faulty(
        "name-number",
        lambda _: plain(5),
        "bad-name",
        "flow 5",
        "the name 5 is not valid; ...",
    ),
    Faulty(
        "name-newline",
        lambda b: b.then(node("fetch\n")),
        "bad-name",
        "node 'fetch\\n'",
        "the name 'fetch\\n' is not valid; ...",
    ),
    Faulty(
        "node-name",
        lambda b: b.then(node("Fetch")),
        "bad-name",
        "node 'Fetch'",
        "the name 'Fetch' is not valid; ...",
    ),
    Faulty(
        "key-name",
        lambda b: b.then(node().as_("jira data")),
        "bad-name",
        "node a",
        "the output key 'jira data' is not valid; ...",
    ),
    Faulty(
        "step-name",
        lambda b: b.then_parallel("", node()),
        "bad-name",
        "step ''",
        "the name '' is not valid; ...",
    ),
    Faulty(
        "block-name",
        lambda b: b.when(always, name="a:b").then(node()).end_when(),
        "bad-name",
        "step 'a:b'",
        "the name 'a:b' is not valid; ...",
    ),
    Faulty(
        "limiter-name",
        lambda b: b.then(node(shared_rate_limit=SharedRateLimiter("*", 1, SECOND))),
        "bad-name",
        "node a",
        "the shared rate limit's name '*' is not valid; ...",
    ),
    Faulty(
        "compensation-name",
        lambda b: b.then(node().on_error(node("undo a"))),
        "bad-name",
        "node 'undo a'",
        "the name 'undo a' is not valid; ...",
    ),
    Faulty(
        "node-queue",
        lambda b: b.then(node(queue="")),
        "bad-name",
        "node a",
        "the queue name '' is not valid; use 1 to 255 printable characters",
    ),
    Faulty(
        "flow-queue",
        lambda b: b.then(node()).on_queue("high\r\n"),
        "bad-name",
        "",
        "the queue name 'high\\r\\n' is not valid; use 1 to 255 printable characters",
    ),
    Faulty(
        "result-name",
        lambda b: b.then(node()).returns(5),
        "bad-name",
        "",
        "the key given to returns() 5 is not valid; ...",
    ),
    Faulty(
        "same-node",
        lambda b: b.then(node()).then(node("b")).then(node()),
        "duplicate-node",
        "node a",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "same-object",
        lambda b: (one := node()) and b.then(one).then(one),
        "duplicate-node",
        "node a",
        "the same node is used twice; give one of them another name with .with_name(...)",
    ),
    Faulty(
        "undo-name",
        lambda b: b.then(node().on_error(node("b"))).then(node("b")),
        "duplicate-node",
        "node b",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "same-undo",
        lambda b: (undo := node("undo")) and b.then(node().on_error(undo)).then(node("b").on_error(undo)),
        "duplicate-node",
        "node undo",
        "the same compensation is used twice; give each its own with .with_name(...)",
    ),
    Faulty(
        "same-on-branches",
        lambda b: b.when(always).then(node()).otherwise(node()),
        "duplicate-node",
        "node a",
        "another node has this name, compensations included; rename one with .with_name(...)",
    ),
    Faulty(
        "block-as-node",
        lambda b: b.then(node()).when(always, name="a").then(node("b")).end_when(),
        "duplicate-node",
        "step a",
        "a node or another block has this name; rename the block with when(predicate, name=...)",
    ),
    Faulty(
        "same-key",
        lambda b: b.then(node().as_("x")).then(node("b").as_("x")),
        "duplicate-key",
        "node b",
        "node a writes the output key x too; change one with as_(...)",
    ),
    Faulty(
        "key-and-name",
        lambda b: b.then_parallel("both", node(), node("b").as_("a")),
        "duplicate-key",
        "node b",
        "node a writes the output key a too; change one with as_(...)",
    ),
    Faulty(
        "key-after-branch",
        lambda b: b.when(always).then(node().as_("x")).otherwise(node("b").as_("x")).then(node("c").as_("x")),
        "duplicate-key",
        "node c",
        "node a writes the output key x too; change one with as_(...)",
    ),
)

SHAPES: tuple[Faulty, ...] = (
    Faulty("no-step", lambda b: b, "no-step", "", "the flow has no step; add one with then(node)"),
    Faulty(
        "empty-parallel",
        lambda b: b.then_parallel("none"),
        "empty-parallel",
        "step none",
        "the parallel step has no node; give it at least one, or remove it",
    ),
    Faulty(
        "too-wide",
        lambda b: b.then_parallel("wide", *[node(f"n-{number}") for number in range(1001)]),
        "too-wide",
        "step wide",
        "1,001 nodes at once; use at most 1,000, or then_map(...), one node for each item",
    ),
    Faulty(
        "require-all",
        lambda b: b.then_parallel("both", node(), node("b"), require=1),
        "bad-require",
        "step both",
        'require goes with on_failure="continue" only: with "fail" every node has to succeed',
    ),
    Faulty(
        "require-many",
        lambda b: b.then_parallel("both", node(), node("b"), on_failure="continue", require=3),
        "bad-require",
        "step both",
        "require=3 of 2 nodes; use 1 to 2, or leave it out to require none",
    ),
    Faulty(
        "require-none",
        lambda b: b.then_parallel("one", node(), on_failure="continue", require=0),
        "bad-require",
        "step one",
        "require=0 of 1 nodes; use 1 to 1, or leave it out to require none",
    ),
    Faulty(
        "require-text",
        lambda b: b.then_parallel("one", node(), on_failure="continue", require="1"),
        "bad-require",
        "step one",
        "require='1' is not a whole number; use 1 to 1",
    ),
    Faulty(
        "on-failure",
        lambda b: b.then_parallel("one", node(), on_failure="ignore"),
        "bad-require",
        "step one",
        'on_failure=\'ignore\' is not known; use "fail" or "continue"',
    ),
    Faulty(
        "undo-when",
        lambda b: b.then(node().on_error(node("b"), when="failed")),
        "bad-require",
        "node a",
        'on_error(when=\'failed\') is not known; use "succeeded" or "started"',
    ),
    Faulty(
        "undo-of-undo",
        lambda b: b.then(node().on_error(node("b").on_error(node("c")))),
        "bad-require",
        "node b",
        "it compensates a and has a compensation of its own, which never runs; remove it",
    ),
    Faulty(
        "unclosed",
        lambda b: b.when(always).then(node()),
        "unclosed-when",
        "step when-1",
        "the block is never closed; end it with end_when()",
    ),
    Faulty(
        "empty-branch",
        lambda b: b.when(always).else_().then(node()).end_when(),
        "empty-branch",
        "step when-1",
        "its branch 1 has no step; add one, or remove the branch",
    ),
    Faulty(
        "empty-else",
        lambda b: b.when(always).then(node()).else_().end_when(),
        "empty-branch",
        "step when-1",
        "its else-branch has no step; add one, or remove the branch",
    ),
    Faulty(
        "else-outside",
        lambda b: b.then(node()).else_().then(node("b")),
        "stray-else",
        "else_() after a",
        "there is no open when() that it could belong to; open a block first",
    ),
    Faulty(
        "two-elses",
        lambda b: b.when(always).then(node()).else_().then(node("b")).else_().then(node("c")).end_when(),
        "stray-else",
        "else_() after b",
        "the block when-1 already has its else-branch; put this branch before it",
    ),
    Faulty(
        "else-before",
        lambda b: b.when(always).then(node()).else_().then(node("b")).else_when(always).then(node("c")).end_when(),
        "stray-else",
        "else_when() after b",
        "the block when-1 already has its else-branch; put this branch before it",
    ),
    Faulty(
        "end-outside",
        lambda b: b.then(node()).end_when(),
        "stray-else",
        "end_when() after a",
        "there is no open when() to close; remove it, or open a block",
    ),
    Faulty(
        "otherwise-outside",
        lambda b: b.otherwise(node()),
        "stray-else",
        "otherwise()",
        "there is no open when() that it could belong to; open a block first",
    ),
    Faulty(
        "otherwise-again",
        lambda b: b.when(always).then(node()).otherwise(node("b")).otherwise(node("c")),
        "stray-else",
        "otherwise() after when-1",
        "there is no open when() that it could belong to; open a block first",
    ),
    Faulty(
        "too-deep",
        lambda b: nested(b, 51),
        "bad-limit",
        "when() after n49",
        "blocks are nested more than 50 deep; split the flow",
    ),
    Faulty(
        "function",
        lambda b: b.then(give),
        "not-a-node",
        "node give",
        'give is not a Node; wrap the function, Node("a-name", give)',
    ),
    Faulty(
        "list",
        lambda b: b.then_parallel("both", [node(), node("b")]),
        "not-a-node",
        "step both",
        "[Node('a'), Node('b')] is not a Node; give the nodes one by one, *nodes",
    ),
    Faulty(
        "flow-as-step",
        lambda b: b.then(plain("inner").build()),
        "not-a-node",
        "node Flow('inner')",
        "Flow('inner') is not a Node; wrap a function, Node(name, function)",
    ),
    Faulty(
        "undo-function",
        lambda b: b.then(node().on_error(give)),
        "not-a-node",
        "node a",
        'on_error: give is not a Node; wrap the function, Node("a-name", give)',
    ),
)
