"""The range of the pixels."""

from __future__ import annotations

from typing import ClassVar, Literal

from auditor.attacking.threat import Norm
from auditor.auditing.check import Check
from auditor.auditing.inquiry import Inquiry
from auditor.kit.flag import Flag, Opinion

FLAT = 2 / 255
"""Images whose pixels all lie within this span were scaled down twice, or hold nothing."""


class ValueRange(Check):
    """The images lie in [0, 1] and fill it, and epsilon is meant for such images."""

    preflight: ClassVar[bool] = True
    title: ClassVar[str] = "Range of the pixels"
    kind: Literal["value_range"] = "value_range"

    def run(self, inquiry: Inquiry) -> Opinion:
        images, _ = inquiry.images(inquiry.allowance.most)
        low, high = float(images.amin()), float(images.amax())
        evidence = f"pixels of {len(images)} images run from {low:.3g} to {high:.3g}"
        flags = []
        if low < 0 or high > 1:
            flags.append(
                Flag(
                    name="pixels out of range",
                    severity="severe",
                    message="Pixels lie outside [0, 1], the range that attacks stay in.",
                    evidence=evidence,
                    remedy="Scale the images to [0, 1]; the normalization belongs to the model.",
                )
            )
        elif high - low <= FLAT:
            flags.append(
                Flag(
                    name="flat images",
                    severity="severe",
                    message="The images are nearly flat, as if their pixels had been scaled down twice.",
                    evidence=evidence,
                    remedy="Look at the pictures of the data set, and add it with the right range.",
                )
            )
        flags += [
            Flag(
                name="epsilon covers everything",
                severity="warning",
                message=f"{threat} lets an attacker turn any image into any other.",
                evidence="pixels lie in [0, 1]",
                remedy="Epsilon is in units of [0, 1]: write 8/255 for 8 of 255 levels.",
            )
            for threat in inquiry.threats
            if threat.norm is Norm.LINF and threat.epsilon >= 1
        ]
        return Opinion(evidence, tuple(flags))
