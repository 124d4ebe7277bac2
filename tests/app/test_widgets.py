"""What the pages' widgets share: the address decides when it is new, then the box; an error is one box."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from tests.app.test_pages import texts


def _choice(first: str | None, alone: bool) -> None:
    import streamlit as st

    from app.widgets import beginning, choose

    titles = {"aaaa1": "one", "aaaa2": "two", "bbbb1": "three"}
    naming = beginning(titles, "There is no thing {}.")
    chosen = choose("Thing", titles, "thing", key="box", naming=naming, first=first, alone=alone)
    st.text(str(chosen))


def page(first: str | None = None, alone: bool = False, **address: str) -> AppTest:
    opened = AppTest.from_function(_choice, kwargs={"first": first, "alone": alone})
    for name, value in address.items():
        opened.query_params[name] = value
    return opened.run()


def chosen(opened: AppTest) -> str:
    assert not opened.exception
    return opened.text[0].value


def address(opened: AppTest) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value[-1] for name, value in opened.query_params.items()}


def test_an_address_names_an_option_by_the_beginning_of_its_id_and_becomes_whole() -> None:
    opened = page(thing="bbbb", other="kept")
    assert chosen(opened) == "bbbb1"
    assert address(opened) == {"thing": "bbbb1", "other": "kept"}


def test_the_box_wins_until_the_address_is_a_new_one() -> None:
    opened = page(thing="bbbb1")
    opened.selectbox(key="box").set_value("aaaa1").run()
    assert (chosen(opened), address(opened)) == ("aaaa1", {"thing": "aaaa1"})
    opened.run()
    assert chosen(opened) == "aaaa1"
    opened.query_params["thing"] = "aaaa2"
    assert chosen(opened.run()) == "aaaa2"


def test_an_address_of_nothing_is_said_until_something_is_chosen() -> None:
    for wrong in ("cccc", "aaaa", "bbb"):  # none, two, too short
        opened = page(thing=wrong)
        assert chosen(opened) == "None"
        assert f"There is no thing {wrong}. Choose one of these." in texts(opened)
        opened.selectbox(key="box").set_value("bbbb1").run()
        assert (texts(opened), address(opened)) == ("", {"thing": "bbbb1"})


def test_a_box_that_is_emptied_empties_the_address() -> None:
    opened = page(thing="bbbb1", other="kept")
    opened.selectbox(key="box").set_value(None).run()
    assert (chosen(opened), address(opened)) == ("None", {"other": "kept"})


def test_where_neither_says_anything_the_first_is_chosen() -> None:
    assert chosen(page()) == "None"
    opened = page(first="aaaa2")
    assert (chosen(opened), address(opened)) == ("aaaa2", {"thing": "aaaa2"})
    opened = page(first="aaaa2", thing="cccc")
    assert chosen(opened) == "aaaa2"
    assert "There is no thing cccc. Choose one of these." in texts(opened)


def test_what_belongs_to_the_one_before_leaves_the_address_with_it() -> None:
    opened = page(alone=True, thing="bbbb1", part="3")
    assert address(opened) == {"thing": "bbbb1", "part": "3"}
    opened.selectbox(key="box").set_value("aaaa1").run()
    assert address(opened) == {"thing": "aaaa1"}


def _fails() -> None:
    import streamlit as st

    from app.widgets import errors_shown
    from auditor.kit.errors import SpecError

    with errors_shown():
        raise SpecError("Wrong *number*.", "Change it.")
    st.text("the rest")


def test_an_error_is_one_box_with_its_remedy_and_the_page_goes_on() -> None:
    opened = AppTest.from_function(_fails).run()
    (box,) = opened.error
    assert box.value == "Wrong \\*number\\*\\. Change it\\."
    assert opened.text[0].value == "the rest"
