"""The form that adds a model again, from its stored weights, with other preprocessing."""

from __future__ import annotations

import streamlit as st

from app.model_form import vet_added
from app.normalization_form import normalization_form
from app.state import client
from app.widgets import errors_shown
from auditor.models.classifier import Normalization
from worker.loading import architecture_of
from worker.models import ModelRow


def again_form(row: ModelRow) -> None:
    """For a wrong normalization or image size: the file need not be uploaded again, and the first model stays."""
    with st.expander("Add again with other preprocessing", icon=":material/tune:"):
        st.caption("The same weights become a second model. This one stays as it is.")
        key = f"again-{row.id[:8]}"
        with errors_shown():
            normalization = normalization_form(key, Normalization.model_validate(row.normalization))
            architecture = architecture_of(row)
            first, second, third = st.columns(3)
            height, width = (
                int(
                    place.number_input(
                        name, 4, 1024, side, key=f"{key}-{name.lower()}", help="Of the images, in pixels."
                    )
                )
                for place, name, side in ((first, "Height", architecture.height), (second, "Width", architecture.width))
            )
            name = third.text_input("Name", key=f"{key}-name", placeholder="this one's and what differs")
            shape = (architecture.channels, height, width)
            datasets = {
                item.id: item.name for item in client().library.datasets() if tuple(item.manifest["shape"]) == shape
            }
            data = st.selectbox(
                "Vet on", list(datasets), format_func=datasets.__getitem__, index=0 if datasets else None,
                placeholder="no data", key=f"{key}-vet-{height}x{width}",
            )  # fmt: skip
            if st.button("Add again", key=f"{key}-add"):
                added = client().library.add_again(
                    row.id, normalization=normalization(), size=(height, width), name=name
                )
                vet_added(added, data)
                st.query_params["model"] = added.id
                st.rerun()
