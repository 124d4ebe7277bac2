"""The page of the study of defenses: its results as Markdown tables, beside the numbers of the NIP paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from auditor.attacking.attack import ATTACKS, BUDGETS, Budget
from auditor.defending.metrics import PairedTest, paired_tests
from auditor.defending.table import DefenseTable
from auditor.kit.statistics.estimate import Rate
from auditor.kit.statistics.paired import paired_difference

NIP = "NIP"

BENIGN = {
    "SS": 90.80, "CBDR, 4 bits": 90.95, "CBDR, 8 bits": 90.95, "TVM": 62.91, "JC": 89.04, "STL": 90.76, "SR": 76.84,
    "FDistill, factor 50": 90.31, "FDistill, factor 100": 90.31, "NIP": 92.51,
}  # fmt: skip
"""Table 4 of the paper, VGG19 on CIFAR-10 (91.04 % undefended), in %."""
P_VALUES = {
    "SS": 0.0085, "CBDR, 4 bits": 0.0, "CBDR, 8 bits": 0.0, "TVM": 0.0, "JC": 0.0003, "STL": 0.0310, "SR": 0.0,
    "FDistill, factor 50": 0.0, "FDistill, factor 100": 0.0,
}  # fmt: skip
"""Table 3, the same network: p of a paired t-test between NIP and this defense, over the attacks."""
FOOLED = {
    "FGSM": 100.00, "BIM": 99.87, "MI-FGSM": 99.76, "JSMA": 100.00, "PGD": 99.92, "DeepFool": 99.66, "UAP": 86.02,
    "EOT": 88.10, "AUNA": 100.00, "PWA": 97.60, "Pixel": 100.00, "Boundary": 93.00, "Auto": 84.50,
}  # fmt: skip
"""Table 1 of the appendix, the same network: attack success, in %."""
RESTORED = {
    "NIP": {"FGSM": 96.1, "BIM": 99.2, "MI-FGSM": 98.8, "JSMA": 98.7, "PGD": 99.3, "DeepFool": 94.9, "UAP": 98.0,
            "AUNA": 95.5, "PWA": 99.3, "Boundary": 99.5},
    "NIP_n": {"FGSM": 94.8, "BIM": 97.7, "MI-FGSM": 95.8, "JSMA": 97.6, "PGD": 96.1, "DeepFool": 54.9, "UAP": 75.0,
              "AUNA": 34.5, "PWA": 99.5, "Boundary": 10.2},
    "SAP": {"FGSM": 74.5, "PGD": 78.6, "PWA": 62.6},
    "NS": {"FGSM": 30.3, "PGD": 35.2, "PWA": 23.1},
}  # fmt: skip
"""Tables 6 and 8, the same network: defense success, in %. The other defenses are in a figure only."""
ADAPTIVE = {"ALA": 10.3, "I-ALA": 14.7, "S-ALA": 31.1, "R-ALA": 25.6, "SAA": 1.9}
"""Tables 5 and 6: success of the paper's adaptive attacks on NIP, in % (AlexNet on CIFAR-10; SAA by PGD)."""


class Attempt(NamedTuple):
    """Of a static attack under one budget: how many of the ``tried`` images it fooled, and their median distance."""

    fooled: Rate
    median: float | None


class Made(NamedTuple):
    """What a static attack made on one network. ``threat``: its budget, in words."""

    threat: str
    attempts: dict[Budget, Attempt]


class Finished(BaseModel):
    """One defense on one network. ``static``: defense success by attack and budget. ``seconds``: of the processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: str
    name: str
    control: bool
    slow: bool
    settings: dict[str, Any]
    static: dict[str, dict[Budget, Rate]]
    evaluation: DefenseTable
    seconds: float

    def rates(self, budget: Budget) -> dict[str, float]:
        """Defense success by attack, where the attack fooled any image."""
        found = {name: rates[budget].value for name, rates in self.static.items() if budget in rates}
        return {name: value for name, value in found.items() if value is not None}


def page(done: Sequence[Finished], made: Mapping[str, Mapping[str, Made]], samples: int, machine: str) -> str:
    """The section, one part for each network."""
    lines = [
        "## Chen et al. 2021: defenses", "",
        f"Made by `benchmarks/defenses.py`, {machine}; {samples} CIFAR-10 test images drawn with seed 0, defenses fitted on "
        "training images. *Defense success*: of the images that an attack on the undefended network fooled, those that the "
        "defended one gets right, which is what the paper counts. *Robust*: of all test images, those that stay right under the "
        "strongest attack on the defended model itself. Intervals are 95 % (Wilson). The paper's numbers (VGG19 or AlexNet on "
        "CIFAR-10) are of other networks, and of the closest images, which foolbox 2.3 looks for by default.",
    ]  # fmt: skip
    for network, attacks in made.items():
        parts = [item for item in done if item.network == network]
        lines += ["", f"### {network}", "", attack_table(attacks)]
        if parts:
            lines += ["", whole_table(parts), "", by_attack(parts, attacks)]
        if any(item.name == NIP for item in parts):
            lines += ["", against_nip(parts), "", adaptive(next(item for item in parts if item.name == NIP))]
    return "\n".join([*lines, ""])


def attack_table(attacks: Mapping[str, Made]) -> str:
    lines = [
        "The attacks on the undefended network:", "",
        "| attack | budget | fooled within it | closest image found | its median distance | paper |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, found in attacks.items():
        cells = [str(found.attempts[budget].fooled) if budget in found.attempts else "–" for budget in BUDGETS]
        median = found.attempts["minimal"].median if "minimal" in found.attempts else None
        lines.append(
            f"| {name} | {found.threat} | {cells[0]} | {cells[1]} | {'–' if median is None else f'{median:.3g}'} | "
            f"{FOOLED[name]:.1f} % |"
        )
    return "\n".join(lines)


def whole_table(parts: Sequence[Finished]) -> str:
    lines = [
        "One row per defense; defense success is the mean over the attacks. Slow defenses were attacked with fewer images and "
        "steps (n in the last column), which flatters them:", "",
        "| defense | benign | paper | success, fixed | success, closest images | robust | by | all attacks together | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for item in parts:
        found, headline = item.evaluation, item.evaluation.headline
        means = [f"{100 * np.mean(list(rates.values())):.1f} %" if rates else "–" for rates in map(item.rates, BUDGETS)]
        lines.append(
            f"| {shown(item)} | {found.benign} | {percent(BENIGN.get(item.name))} | {means[0]} | {means[1]} | "
            f"{headline.accuracy} | {headline.name} | {found.worst} | {headline.accuracy.n} |"
        )
    whole = max((item.evaluation for item in parts), key=lambda found: found.benign.n)
    bare = min(whole.undefended, key=lambda row: row.accuracy.hits)
    lines.append(
        f"| none | {whole.benign_undefended} | 91.0 % | | | {bare.accuracy} | {bare.name} | | {bare.accuracy.n} |"
    )
    return "\n".join(lines)


def by_attack(parts: Sequence[Finished], attacks: Mapping[str, Made]) -> str:
    """Defense success on the closest images, attack by attack."""
    heads = [item.name for item in parts]
    lines = [
        "Defense success on the closest images in %, with its interval; in parentheses, what the paper reports:", "",
        f"| attack | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}",
    ]  # fmt: skip
    for name in attacks:
        cells = []
        for item in parts:
            rate, paper = item.static.get(name, {}).get("minimal"), RESTORED.get(item.name, {}).get(name)
            cells.append(f"{short(rate)}{f' ({paper:.0f})' if paper else ''}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(rate: Rate | None) -> str:
    """``32 [20, 47]``, in %."""
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.value:.0f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"


def against_nip(parts: Sequence[Finished]) -> str:
    """NIP beside each other defense: over the attacks as the paper tests it, and over the samples under adaptive attack."""
    nip = next(item for item in parts if item.name == NIP)
    others = [item for item in parts if item.name != NIP]
    shared = {item.name: [name for name in nip.rates("minimal") if name in item.rates("minimal")] for item in others}
    pairs = [
        (item.name, [nip.rates("minimal")[name] for name in names], [item.rates("minimal")[name] for name in names])
        for item in others
        if len(names := shared[item.name]) > 1
    ]
    tests: dict[str, PairedTest] = {test.name: test for test in paired_tests(pairs)} if pairs else {}
    lines = [
        "NIP minus each other defense. *Closest images*: mean difference in defense success over the attacks, p of the "
        "paper's paired t-test, and p corrected for the number of tests (Holm). *Robust*: paired difference in the share of "
        "samples that hold under every attack, on the samples on which both were attacked:", "",
        "| compared with | closest images | p | corrected | p in the paper | robust |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for item in others:
        test, paper = tests.get(item.name), P_VALUES.get(item.name)
        cells = [f"{100 * test.difference:+.1f} points", f"{test.p:.2g}", f"{test.adjusted:.2g}"] if test else ["–"] * 3
        cells += ["–" if paper is None else f"{paper:.4f}", robust_difference(nip, item)]
        lines.append(f"| {shown(item)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def robust_difference(nip: Finished, other: Finished) -> str:
    ours, theirs = holding(nip), holding(other)
    common = sorted(ours.keys() & theirs.keys())
    found = paired_difference(np.array([theirs[one] for one in common]), np.array([ours[one] for one in common]))
    return f"{100 * found.value:+.1f} points [{100 * found.low:.1f}, {100 * found.high:.1f}], n = {found.n}"


def holding(item: Finished) -> dict[int, bool]:
    """Which samples, by id, hold under every attack within epsilon."""
    held = np.all([row.held for row in item.evaluation.robust if row.within], axis=0)
    return dict(zip(item.evaluation.samples, held.tolist(), strict=True))


def adaptive(nip: Finished) -> str:
    """Every attack on the model behind NIP, and the levels of the published code."""
    facts, quorum = nip.evaluation.facts[0], nip.evaluation.defenses[0].settings()["quorum"]
    assert isinstance(quorum, float)
    lines = [
        f"Every attack on the model defended by NIP ({facts['images']} candidates; {facts['template']} of {facts['neurons']} "
        f"neurons are in the template: those that remain in {100 * quorum:g} % of the images). *Paper*: "
        "100 % minus the success that it reports (tables 5 and 6):", "",
        "| attack | knows | right before and after | median distance of those that broke | within ε | paper |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in nip.evaluation.robust:
        median = row.distances.median
        success = ADAPTIVE.get(row.name.split(" by ")[0].split(",")[0])
        lines.append(
            f"| {row.name} | {row.knowledge} | {row.accuracy} | {'–' if median is None else f'{median:.3g}'} | "
            f"{'yes' if row.within else 'no'} | {percent(None if success is None else 100 - success)} |"
        )
    levels = [
        f"| {item.name} | {ATTACKS.parse(item.attack).display_title()}, {item.budget} | {item.success} |"
        for item in nip.evaluation.reproductions
    ]
    if levels:
        lines += [
            "", "The published code, which knows what no defense can know, and a random direction in place of its own:", "",
            "| level | images | success |", "|---|---|---|", *levels,
        ]  # fmt: skip
    return "\n".join(lines)


def shown(item: Finished) -> str:
    return f"{item.name}{' (control)' if item.control else ''}{' (slow)' if item.slow else ''}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"
