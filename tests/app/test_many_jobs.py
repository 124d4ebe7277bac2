"""More jobs than a page holds: each is found by its id, those that run are seen first, and none is denied."""

from __future__ import annotations

import pytest
import streamlit as st
from sqlalchemy import Table, insert, select, update
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Element

from app.views.jobs import PER_PAGE
from app.widgets import LISTED
from tests.app.test_pages import finished_audit, opened, texts
from tests.narrow import typed
from tests.worker.world import World, make_world, quick_spec
from worker.models import JobRow, ResultRow
from worker.settings import Settings

MANY = LISTED + 5


@pytest.fixture
def world(settings: Settings) -> World:
    st.cache_resource.clear()
    st.cache_data.clear()
    return make_world(settings)


def copies(world: World, job_id: str, count: int, **values: object) -> list[str]:
    """As many further jobs like this one, each a second newer than the one before; with its result where it has one."""
    table, results = typed(JobRow.__table__, Table), typed(ResultRow.__table__, Table)
    with world.client.backend.database.write() as session:
        row = dict(session.execute(select(table).where(table.c.id == job_id)).mappings().one())
        result = session.execute(select(results).where(results.c.job_id == job_id)).mappings().first()
        made = [f"{index:08x}" + "c" * 24 for index in range(1, count + 1)]
        rows = [row | values | {"id": one, "created": row["created"] + place} for place, one in enumerate(made, 1)]
        session.execute(insert(table), rows)
        if result is not None:
            session.execute(insert(results), [dict(result) | {"job_id": one} for one in made])
    return made


@pytest.fixture
def crowded(world: World) -> tuple[World, str]:
    """One audit that is older than ``MANY`` others."""
    oldest = finished_audit(world)
    copies(world, oldest, MANY)
    return world, oldest


def test_the_start_page_counts_every_audit(crowded: tuple[World, str]) -> None:
    page = opened("start")
    assert next(item for item in page.metric if item.label == "Audits").value == str(MANY + 1)


@pytest.mark.parametrize(("view", "name"), [("result", "audit"), ("neurons", "audit"), ("compare", "a")])
def test_an_audit_older_than_the_list_is_opened_by_its_address(
    crowded: tuple[World, str], view: str, name: str
) -> None:
    _, oldest = crowded
    for address in (oldest, oldest[:8]):
        page = opened(view, **{name: address})
        assert page.selectbox(key=f"choose-{name}").value == oldest
        assert "There is no" not in texts(page)


def test_an_address_that_is_followed_on_an_open_page_opens_what_it_names(crowded: tuple[World, str]) -> None:
    world, oldest = crowded
    newest = world.client.jobs.find(kind="audit", limit=1)[0].id
    page = opened("result", audit=newest)
    assert page.selectbox(key="choose-audit").value == newest
    page.query_params["audit"] = oldest
    page.run()
    assert page.selectbox(key="choose-audit").value == oldest
    assert page.query_params["audit"] == oldest
    page.selectbox(key="choose-audit").set_value(newest).run()
    assert page.query_params["audit"] == newest


def test_an_address_of_no_finished_audit_says_why_and_lets_choose(world: World) -> None:
    done = finished_audit(world)
    waiting, vet = world.client.audits.queue("tiny", "random", quick_spec()), world.client.audits.vet("tiny")
    for address, said in (
        ("feed", "There is no finished audit feed. Choose one of these."),
        (waiting, f"There is no finished audit {waiting}: it is queued."),
        (vet, "that job is of kind vet"),
    ):
        page = opened("result", audit=address)
        assert said in texts(page)
        page.selectbox(key="choose-audit").set_value(done).run()
        assert said not in texts(page)
        assert page.query_params["audit"] == done


def titles(page: AppTest) -> list[str]:
    """The ids of the cards, in order."""
    return [str(item.value).rsplit("`", 2)[1] for item in page.markdown if "`" in str(item.value)]


@pytest.fixture
def busy(world: World) -> tuple[World, list[str]]:
    """Two audits that run, the oldest; two hundred that wait."""
    first = world.client.audits.queue("tiny", "random", quick_spec())
    waiting = copies(world, first, 201)
    with world.client.backend.database.write() as session:
        session.execute(
            update(JobRow).where(JobRow.id.in_([first, waiting[0]])).values(state="running", share=0.5, step="s")
        )
    return world, [first, *waiting]


def test_of_two_hundred_jobs_those_that_run_are_seen_first_and_can_be_cancelled(
    busy: tuple[World, list[str]],
) -> None:
    world, jobs = busy
    page = opened("jobs")
    shown = titles(page)
    assert len(shown) == PER_PAGE
    assert set(shown[:2]) == {jobs[0][:8], jobs[1][:8]}
    assert shown[2:] == [job[:8] for job in jobs[2 : 2 + PER_PAGE - 2]], "those that wait, in the order of the queue"
    assert "2 running, 200 queued." in texts(page)
    page.button(key=f"cancel-{jobs[0]}").click().run()
    row = world.client.ledger.get(jobs[0])
    assert row is not None
    assert row.cancel


def test_every_job_is_on_a_page_and_a_named_one_on_each(busy: tuple[World, list[str]]) -> None:
    _, jobs = busy
    page = opened("jobs", job=jobs[-1][:8])
    assert titles(page)[0] == jobs[-1][:8]
    seen: list[str] = []
    pages = -(-len(jobs) // PER_PAGE)
    for number in range(1, pages + 1):
        typed(page.get("pagination")[0], Element).set_value(number).run()
        here = titles(page)
        assert here[0] == jobs[-1][:8]
        seen += here[1:]
    assert sorted(seen) == sorted(job[:8] for job in jobs[:-1])


def test_jobs_are_filtered_by_kind_state_and_words(busy: tuple[World, list[str]]) -> None:
    world, jobs = busy
    vet = world.client.audits.vet("tiny")
    assert titles(opened("jobs", kind="vet")) == [vet[:8]]
    assert len(titles(opened("jobs", state="running"))) == 2
    page = opened("jobs")
    page.text_input(key="jobs-text").set_value(jobs[150][:8]).run()
    assert titles(page) == [jobs[150][:8]]
    page.text_input(key="jobs-text").set_value("%").run()
    assert "No job matches the filters." in texts(page)


def test_the_same_work_is_found_again_however_many_jobs_came_after(crowded: tuple[World, str]) -> None:
    """Not queued anew: an audit of a pair, the playground's image."""
    world, oldest = crowded
    with world.client.backend.database.write() as session:
        session.execute(update(JobRow).where(JobRow.id != oldest).values(state="failed"))
    assert world.client.audits._audit_once(world.model_id, "random", quick_spec()) == oldest
