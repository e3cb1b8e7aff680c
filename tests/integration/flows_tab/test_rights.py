"""Rights in the Flows tab: who may read and do what, and from where, in a Flower as it is started."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from tornado.web import create_signed_value

from tests.flower import PAGES, basic, flower_process

MODULE = "tests.programs.tabbed"
SECRET = "a secret of this test"
ACTIONS = (
    "/flows/act",
    "/flows/flow/order/start",
    "/flows/limit",
    "/flows/schedule",
    "/flows/backfill",
    "/flows/answer",
)
FOREIGN = {
    "another site": {"Sec_Fetch_Site": "cross-site"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "another origin": {"Origin": "http://evil.example"},
    "a proxy": {"X_Forwarded_For": "10.0.0.1"},
    "a name that is not ours": {"Host": "evil.example"},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("path", ACTIONS)
def test_nobody_acts_from_elsewhere(flower, run, path, headers):
    values = {"op": "cancel", "run": run.id, "confirm": "yes", "input": "", "name": "jira"}
    assert flower.post(path, values, **headers).status == 403
    assert not run.status.is_final


@pytest.mark.parametrize("path", ACTIONS)
def test_nobody_acts_without_the_token_of_our_page(flower, guarded, run, path):
    values = {"op": "cancel", "run": run.id, "confirm": "yes"}
    assert flower.post(path, values, token=False).status == 403
    assert guarded.post(path, values, token=False, Authorization=basic("ada:secret")).status == 403
    assert not run.status.is_final


@pytest.mark.parametrize("path", ["/flows/act", "/flows/limit", "/flows/schedule", "/flows/backfill", "/flows/answer"])
def test_nothing_acts_by_get(flower, run, path):
    assert flower.get(f"{path}?op=cancel&run={run.id}&confirm=yes").status == 405
    assert not run.status.is_final


def test_a_read_only_flower_shows_everything_and_does_nothing(read_only, run):
    page = read_only.get(f"/flows/run/{run.id}").text
    assert run.id in page
    assert "<button" not in page.partition('class="fl-tabs"')[2].replace('<button type="button" class="fl-copy"', "")
    answer = read_only.post("/flows/act", {"op": "cancel", "run": run.id, "confirm": "yes", "_xsrf": "x"}, token=False)
    assert answer.status == 403
    token = re.search(r"_xsrf=([^;]+)", read_only.get("/flows").headers["Set-Cookie"] or "") or ["", ""]
    tokened = {"op": "cancel", "run": run.id, "confirm": "yes", "_xsrf": token[1]}
    assert read_only.post("/flows/act", tokened, token=False).status == 403
    assert not run.status.is_final


@pytest.mark.parametrize("path", [f"/flows{page}" for page in PAGES] + ["/flows/api/runs", "/flows/api/counts"])
def test_nobody_reads_without_flower_s_password(guarded, path):
    assert guarded.get(path).status == 401
    assert guarded.get(path, Authorization=basic("ada:wrong")).status == 401
    assert guarded.get(path, Authorization=basic("ada:secret")).status == 200


def test_who_has_signed_in_acts_by_name(guarded, run):
    values = {"op": "cancel", "run": run.id, "confirm": "yes", "reason": "too late"}
    assert guarded.post("/flows/act", values).status in (401, 403)
    answer = guarded.post("/flows/act", values, Authorization=basic("ada:secret"), Host="flower.example")
    assert answer.status == 303
    assert "too late (by ada)" in str(run.error)


@pytest.fixture(scope="module")
def signed_in(server, program, folder):
    """With OAuth; its provider is asked for nothing, for the cookie that it would set is made here."""
    options = (
        "--auth=.*@example.com",
        "--oauth2_key=k",
        "--oauth2_secret=s",
        "--oauth2_redirect_uri=http://localhost/",
    )
    named = ("--auth_provider=flower.views.auth.GoogleAuth2LoginHandler", f"--cookie_secret={SECRET}")
    with flower_process(MODULE, server.url, folder / "oauth", *options, *named) as started:
        yield started


def cookie_of(user: str) -> str:
    return create_signed_value(SECRET, "user", user).decode()


def test_behind_oauth_only_who_has_signed_in_reads_and_acts_by_name(signed_in, run):
    page, api = f"/flows/run/{run.id}", "/flows/api/runs"
    for user in ("", "eve@evil.example"):
        signed_in.cookies["user"] = cookie_of(user) if user else ""
        assert (signed_in.get(page).status, signed_in.get(api).status) == (302, 302)
        assert signed_in.get(page).headers["Location"].startswith("/login?next=")
        assert signed_in.post("/flows/act", {"op": "cancel", "run": run.id, "confirm": "yes"}).status == 403
        assert not run.status.is_final
    signed_in.cookies["user"] = cookie_of("ada@example.com")
    assert run.id in signed_in.get(page).text
    values = {"op": "cancel", "run": run.id, "confirm": "yes", "reason": "not wanted"}
    assert signed_in.post("/flows/act", values, token=False).status == 403
    assert signed_in.post("/flows/act", values, Host="flower.example").status == 303
    assert "not wanted (by ada@example.com)" in str(run.error)


def test_on_a_unix_socket_pages_come_from_the_store_and_whoever_reaches_it_acts(server, program, folder, run):
    path = Path(tempfile.mkdtemp()) / "flower.sock"  # the path of a socket has to be short
    with flower_process(MODULE, server.url, folder / "socket", unix_socket=path) as reached:
        assert run.id in reached.get(f"/flows/run/{run.id}").text  # this Flower has heard no event of it
        assert run.id in reached.get("/flows").text
        values = {"op": "cancel", "run": run.id, "confirm": "yes"}
        assert reached.post("/flows/act", values, Host="flower.example").status == 403
        assert reached.post("/flows/act", values, X_Forwarded_For="10.0.0.1").status == 403
        assert not run.status.is_final
        assert reached.post("/flows/act", values).status == 303
        assert run.status == "cancelled"
