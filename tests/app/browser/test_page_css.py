"""What page.css promises of Streamlit's own elements, with the rules of Streamlit that stand against it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

import app

pytestmark = pytest.mark.browser

CSS = (Path(app.__file__).parent / "page.css").read_text()
STREAMLIT = "label.a.b p.c { white-space: nowrap; overflow: hidden } table { border-collapse: collapse } td, th { padding: 8px }"


def drawn(browser: Browser, width: int, body: str, script: str) -> object:
    page = browser.new_page(viewport={"width": width, "height": 600})
    page.set_content(f"<style>{STREAMLIT}</style><style>{CSS}</style><body>{body}</body>")
    found: object = page.evaluate(script)
    page.close()
    return found


def test_the_label_of_a_number_is_wrapped_and_not_drawn_over_its_neighbour(browser: Browser) -> None:
    label = "Robust accuracy, L∞ ε = 8/255: not established"
    body = f'<label data-testid="stMetricLabel" style="display: block; width: 200px" class="a b"><p class="c">{label}</p></label>'
    assert drawn(browser, 480, body, "document.querySelector('label').scrollWidth") == 200


def test_words_of_a_table_head_stay_whole_in_a_narrow_window(browser: Browser) -> None:
    heads = ("Normalization", "Values", "Accuracy [95 %]", "Lead (points)", "Under PGD [95 %]")
    cells = (
        "CIFAR's with std 0.2",
        "mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.201",
        "28.7 % [24.5, 33.4]",
        "+10.2",
        "20.0 %",
    )
    row = [
        f"<tr>{''.join(f'<{tag}>{text}</{tag}>' for text in texts)}</tr>"
        for tag, texts in (("th", heads), ("td", cells))
    ]
    body = f'<div data-testid="stTable" style="width: 416px"><table style="width: 100%">{"".join(row)}</table></div>'
    script = """() => {
        const pen = document.createElement('canvas').getContext('2d');
        const heads = [...document.querySelectorAll('th')];
        pen.font = getComputedStyle(heads[0]).font;
        const longest = head => Math.max(...head.innerText.split(' ').map(word => pen.measureText(word).width));
        return heads.filter(head => head.clientWidth < longest(head)).map(head => head.innerText);
    }"""
    assert drawn(browser, 480, body, script) == []
