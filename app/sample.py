"""The shipped sample as the product's first content: test and training images, two models, and an audit of each."""

from __future__ import annotations

from auditor.auditing.spec import AuditSpec
from auditor.data.samples import ARCHITECTURE, CLASS_NAMES, EPSILON, IMAGES, TRAINING_IMAGES, WEIGHTS
from auditor.kit.errors import NotFoundError
from auditor.models.classifier import NORMALIZATIONS
from worker.client import HOPEFUL, Client

DATASET, TRAINING = "Fashion-MNIST sample", "Fashion-MNIST training sample"
MODELS = {"plain": "Fashion plain", "robust": "Fashion robust"}

SPEC = AuditSpec.load(
    {
        "threats": [{"norm": "linf", "epsilon": EPSILON}],
        "attacks": [{"kind": "fgsm"}, {"kind": "pgd", "steps": 10, "step_size": 0.25}],
        "curve": [0.1, 0.25, 0.5, 0.75, 1.5, 2.0],
        "samples": 1000,
    }
)


def seed(client: Client) -> None:
    """Add the sample's data sets and models where they are missing; twice is harmless."""
    for name, path in ((TRAINING, TRAINING_IMAGES), (DATASET, IMAGES)):
        try:
            client.library.dataset(name)
        except NotFoundError:
            with path.open("rb") as file:
                client.library.add_dataset(file, path.name, name=name)
    for key, name in MODELS.items():
        try:
            client.library.model(name)
        except NotFoundError:
            with WEIGHTS[key].open("rb") as file:
                client.library.add_model(
                    file,
                    WEIGHTS[key].name,
                    name=name,
                    architecture=ARCHITECTURE,
                    normalization=NORMALIZATIONS["none"],
                    class_names=CLASS_NAMES,
                )
            client.audits.vet(name, DATASET)


def queue_audits(client: Client, *, anew: bool) -> list[str]:
    """An audit of each sample model; one that is under way or done is taken instead, unless ``anew``."""
    jobs = []
    for name in MODELS.values():
        model = client.library.model(name)
        earlier = client.jobs.find(kind="audit", model_id=model.id, states=HOPEFUL, limit=1)
        jobs.append(earlier[0].id if earlier and not anew else client.audits.queue(name, DATASET, SPEC))
    return jobs
