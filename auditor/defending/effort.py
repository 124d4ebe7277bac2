"""Effort: how hard an evaluation attacks a defense, by name."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Effort(BaseModel):
    """``values``: fields of a TableSpec. ``samples``: test images. ``summary``: what it is good for."""

    model_config = ConfigDict(frozen=True)

    title: str
    summary: str
    samples: int
    values: dict[str, int]


EFFORTS: dict[str, Effort] = {
    "quick": Effort(
        title="Quick look",
        summary="Few images, short attacks: minutes on a CPU. It can show that a defense fails, but not that it holds.",
        samples=50,
        values={"steps": 20, "restarts": 1, "draws": 5, "nearest": 3, "queries": 200, "decision_steps": 60},
    ),
    "usual": Effort(
        title="Usual",
        summary="200 images, 50 steps, 2 restarts.",
        samples=200,
        values={"steps": 50, "restarts": 2, "draws": 10, "nearest": 10, "queries": 1000, "decision_steps": 300},
    ),
    "thorough": Effort(
        title="Thorough",
        summary="1,000 images, 100 steps, 5 restarts, 20 draws: for numbers to quote; use a GPU.",
        samples=1000,
        values={"steps": 100, "restarts": 5, "draws": 20, "nearest": 10, "queries": 2000, "decision_steps": 500},
    ),
}
