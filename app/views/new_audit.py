"""New audit: a form made from the catalogues of attacks, analyses, corruptions and checks."""

from typing import Any

import streamlit as st

from app import forms
from app.class_match import class_match
from app.commands.show import duration
from app.state import client
from app.text import plain
from app.widgets import choose_row, errors_shown
from auditor.attacking.attack import ATTACKS
from auditor.attacking.criterion import Targeted
from auditor.attacking.presets import PRESETS
from auditor.attacking.threat import Norm
from auditor.auditing.check import CHECKS
from auditor.auditing.corruption import CORRUPTIONS
from auditor.auditing.spec import AuditSpec
from auditor.kit.capability import Catalog
from auditor.kit.errors import SpecError
from auditor.models.hand_match import HandMatch
from auditor.neural.analysis import ANALYSES

OWN = "own"


def pick(label: str, catalog: Catalog[Any], default: list[str]) -> list[str]:
    """Pick members of a catalogue."""
    titles = {member.kind_name(): member.display_title() for member in catalog}
    return st.multiselect(label, list(titles), default, format_func=titles.__getitem__, key=f"audit-{catalog.noun}")


def members(label: str, catalog: Catalog[Any], default: list[str]) -> list[Any]:
    """Pick members of a catalogue and set their parameters."""
    made = []
    for kind in pick(label, catalog, default):
        member = catalog[kind]
        with st.expander(f"{member.display_title()}: settings"):
            st.caption(plain(member.summary()))
            made.append(forms.capability(catalog, kind, f"audit-{catalog.noun}"))
    return made


def many(label: str, catalog: Catalog[Any], default: list[str]) -> list[Any]:
    """Pick members of a large catalogue; their parameters stand in one place."""
    made = []
    kinds = pick(label, catalog, default)
    if not kinds:
        return []
    with st.expander(f"{label}: settings"):
        for kind in kinds:
            st.markdown(f"**{plain(catalog[kind].display_title())}**: {plain(catalog[kind].summary())}")
            made.append(forms.capability(catalog, kind, f"audit-{catalog.noun}"))
    return made


def goal() -> dict[str, Any]:
    """What the attacker wants."""
    wanted = st.radio(
        "Goal", ["untargeted", "targeted"], horizontal=True, key="audit-goal",
        help="Untargeted: any wrong class. Targeted: one particular class.",
    )  # fmt: skip
    return {"kind": wanted} | (forms.fields(Targeted, "audit-targeted", skip=("kind",)) if wanted == "targeted" else {})


def numbers(text: str, what: str) -> list[str]:
    """Items of a comma-separated list."""
    items = [item.strip() for item in text.replace(";", ",").split(",") if item.strip()]
    if not items:
        raise SpecError(f"{what}: expected at least one number, got nothing.")
    return items


def threats_and_attacks() -> dict[str, Any]:
    """A preset, or threat models and attacks of the user's own."""
    titles = {OWN: "Custom"} | {name: preset.title for name, preset in PRESETS.items()}
    name = st.selectbox("Preset", list(titles), format_func=titles.__getitem__, key="audit-preset")
    if name != OWN:
        preset = PRESETS[name]
        threats, members_of_it = preset.build()
        st.caption(plain(preset.summary))
        st.caption(plain(f"{', '.join(map(str, threats))}: {'; '.join(attack.describe() for attack in members_of_it)}"))
        return {"threats": threats, "attacks": members_of_it}
    left, right = st.columns(2)
    norm = left.selectbox("Norm", list(Norm), format_func=lambda item: item.symbol, key="audit-norm")
    epsilons = right.text_input(
        "Epsilon", "8/255", key="audit-epsilon",
        help="Largest perturbation of pixels in [0, 1]: a number or a fraction. Several, with commas, give several headlines.",
    )  # fmt: skip
    attacks = members("Attacks", ATTACKS, ["fgsm", "pgd"])
    if not attacks:
        raise SpecError("attacks: choose at least one.")
    return {"threats": [{"norm": norm, "epsilon": item} for item in numbers(epsilons, "epsilon")], "attacks": attacks}


def spec(match: HandMatch) -> AuditSpec:
    """The whole form, with this match of classes; a SpecError says what is wrong with a value."""
    attacked = threats_and_attacks()
    chosen_goal = goal()
    analyses = members("Analyses", ANALYSES, [kind for kind, member in ANALYSES.members.items() if member.standard])
    corruptions = many("Corruptions", CORRUPTIONS, [])
    checks = many("Checks", CHECKS, list(CHECKS.members))
    with st.expander("Samples, curve, seed and device"):
        plain_fields = (
            "samples",
            "analysis_samples",
            "check_samples",
            "gallery",
            "examples",
            "curve_to_zero",
            "draws",
            "seed",
            "batch_size",
            "device",
        )
        values = forms.fields(AuditSpec, "audit", only=plain_fields)
        curve = st.text_input(
            "Curve", "0.25, 0.5, 2", key="audit-curve", help=AuditSpec.model_fields["curve"].description
        )
    points = numbers(curve, "curve") if curve.strip() else []
    chosen = {"analyses": analyses, "corruptions": corruptions, "checks": checks, "match": match}
    return AuditSpec.load(values | attacked | {"goal": chosen_goal, "curve": points} | chosen)


def show_cost(model: str, dataset: str, spec: AuditSpec) -> None:
    """What the audit costs at most, before it is queued."""
    cost = client().audits.estimate(model, dataset, spec)
    text = f"At most {cost.passes / cost.samples:,.0f} forward passes for each of {cost.samples:,} images"
    if cost.seconds is not None:
        text += f", about {duration(cost.seconds)} on the machine that vetted the model"
    st.caption(plain(f"{text}; samples fooled early save much of this."))


st.title("New audit")
models, datasets = list(client().library.models()), list(client().library.datasets())
if not models or not datasets:
    st.info("An audit needs a model and a data set. Add them under Models and Data sets.")
    st.stop()
first, second = st.columns(2)
with first:
    model = choose_row("Model", models, "model", "audit", kept=True)
with second:
    dataset = choose_row("Data set", datasets, "dataset", "audit", kept=True)
with errors_shown():
    wanted = spec(class_match(model, dataset, "audit") if model and dataset else {})
    if model and dataset:
        show_cost(model, dataset, wanted)
    if st.button("Queue the audit", type="primary", key="audit-queue", disabled=not (model and dataset)):
        job_id = client().audits.queue(str(model), str(dataset), wanted)
        st.switch_page("views/jobs.py", query_params={"job": job_id})
