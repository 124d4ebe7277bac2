"""EOT: the rotation, the formula in a plain loop, and what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from auditor.attacking.attack import ATTACKS
from auditor.attacking.attacks.eot import rotate
from auditor.attacking.criterion import Misclassification
from auditor.attacking.evaluation import run_attack
from auditor.attacking.harness.outcome import Finished
from auditor.attacking.threat import ThreatModel
from auditor.kit.randomness import RowRandom
from tests.auditor.attacking.attacks.small import SEED, ran, slope
from tests.auditor.real import Setting


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (32, 20)])
def test_rotation_is_scipys(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, *shape, generator=generator, dtype=torch.float64)
    angles = torch.tensor([[0.0, 0.3, -0.7], [math.pi / 4, -math.pi / 2, 3.0]], dtype=torch.float64)
    rotated = rotate(x, angles)
    centre = (np.array(shape) - 1) / 2
    for row in range(2):
        for sample, angle in enumerate(angles[row].tolist()):
            # scipy wants where each (row, column) of the result comes from: (x, y) -> (cx - sy, sx + cy) on (column, row).
            matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            for channel in range(3):
                expected = ndimage.affine_transform(
                    x[row, channel].numpy(), matrix, centre - matrix @ centre, order=1, mode="grid-constant"
                )
                assert np.allclose(rotated[row, sample, channel], expected, atol=1e-9)
    assert torch.allclose(rotated[0, 0], x[0])


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_projected_descent_on_the_mean_over_rotations(targeted: bool) -> None:
    """x = clip(x + alpha sign(1/S sum over angles of grad L(rotate(x, angle)))), one image, one angle at a time."""
    run = ran("eot:steps=3,step_size=0.4,samples=4,degrees=30", ThreatModel(epsilon=0.1), targeted=targeted)
    for row in range(len(run.x)):
        x = run.x[row : row + 1]
        aim = (run.targets if targeted else run.labels)[row : row + 1]
        x_adv = x
        for step in range(3):
            share = RowRandom(SEED, "angles", [(row, 0, 0, step)]).uniform(torch.empty(1, 4, dtype=torch.float64))[0]
            total = torch.zeros_like(x)
            for part in share.tolist():
                angle = torch.tensor([[math.radians(30) * (2 * part - 1)]], dtype=torch.float64)

                def turned(image: Tensor, angle: Tensor = angle) -> Tensor:
                    return rotate(image, angle)[:, 0]

                outer = slope(run.classifier, turned(x_adv), aim)
                _, pulled = torch.autograd.functional.vjp(turned, x_adv, outer)
                total = total + (-pulled if targeted else pulled) / 4
            x_adv = x_adv + 0.04 * total.sign()
            x_adv = (x + (x_adv - x).clamp(-0.1, 0.1)).clamp(0, 1)
        assert torch.allclose(run.x_adv[row], x_adv[0], atol=1e-6), row


def test_rotated_images_are_no_successes_of_a_fixed_budget() -> None:
    """Turned by up to 180 degrees nearly every image is misclassified, and far from the clean one."""
    run = ran("eot:steps=2,degrees=180", ThreatModel(epsilon=1e-4), early_stop=True, n=40)
    assert (run.outcome.distance <= 1.01e-4).all()
    assert (run.outcome.prediction[~run.outcome.fooled] == run.labels.numpy()[~run.outcome.fooled]).all()


def test_its_images_survive_rotation_better_than_those_of_a_plain_attack(setting: Setting) -> None:
    x, y, ids = setting.x[:40], setting.y[:40], setting.ids[:40]
    angles = (torch.rand(40, 15, generator=torch.Generator().manual_seed(1)) * 2 - 1) * math.radians(45)
    wrong = {}
    for attack in ("eot:steps=10,step_size=0.25,samples=5", "bim:steps=10,step_size=0.25"):
        x_adv = torch.zeros_like(x)

        def keep(finished: Finished, x_adv: Tensor = x_adv) -> None:
            x_adv[torch.from_numpy(finished.position)] = finished.x_adv

        run_attack(
            setting.classifier, ATTACKS.parse(attack), ThreatModel(epsilon=8 / 255), setting.data, ids,
            Misclassification(y), seed=0, batch_size=40, early_stop=False, on_finished=keep,
        )  # fmt: skip
        predicted = setting.classifier.logits(rotate(x_adv, angles).flatten(0, 1)).argmax(1)
        wrong[attack[:3]] = float((predicted != y.repeat_interleave(15)).double().mean())
    print("misclassified under random rotations:", wrong)
    assert wrong["eot"] > wrong["bim"]
