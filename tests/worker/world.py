"""A small world for jobs: a home with a tiny model and data set, and job kinds that behave as a test wants."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from safetensors.torch import save

from auditor.architecture import ARCHITECTURES
from auditor.audit_spec import AuditSpec
from auditor.classifier import NORMALIZATIONS, Classifier
from auditor.dataset import write_dataset
from auditor.progress import no_progress
from tests.nets import labelled
from worker.client import Client
from worker.job import Context
from worker.settings import Settings

LAYERS = "nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)"

ODD_JOBS = '''
    """Jobs that misbehave, each in its own way."""

    import os, time
    from typing import ClassVar, Literal

    from auditor.errors import EvaluationError
    from worker.job import Context, Job, Output


    class Odd(Job):
        """Does what ``how`` says."""

        noun: ClassVar[str] = "odd job"
        kind: Literal["odd"] = "odd"
        model_id: str = "none"
        how: str = "finish"
        seconds: float = 60.0
        wait_for: str = ""

        def run(self, context: Context) -> Output:
            if self.how == "abort":
                os.abort()
            if self.how == "refuse":
                raise EvaluationError("The network returned NaN.", "Check the weights.")
            if self.how == "bug":
                raise RuntimeError("postgresql://user:hunter2@host/db failed")
            if self.how == "memory":
                raise MemoryError
            context.on_progress(0.0, "waiting")
            while self.wait_for and not os.path.exists(self.wait_for):
                time.sleep(0.05)
            if self.how == "read":
                context.classifier(self.model_id)
            if self.how == "write":
                (context.folder / "large").write_bytes(bytes(int(self.seconds * 2**20)))
            if self.how == "hang":
                time.sleep(self.seconds)
            steps = int(self.seconds * 10) if self.how == "slow" else 0
            for step in range(steps):
                time.sleep(0.1)
                context.on_progress(step / steps, f"step {step}")
            return Output(b"done", {"how": self.how})
'''


class World(NamedTuple):
    client: Client
    model_id: str
    dataset_id: str


def make_world(settings: Settings) -> World:
    """Tables, one model and one data set, put in by hand: intake has tests of its own."""
    client = Client(settings)
    client.prepare()
    architecture = ARCHITECTURES.build("sequential", {"num_classes": 5, "height": 6, "width": 6, "layers": LAYERS})
    network = architecture.build()
    weights = client.blobs.put(save(network.state_dict()))
    model = client.registry.add_model(
        "tiny",
        architecture=architecture.model_dump(mode="json"),
        normalization=NORMALIZATIONS["half"].model_dump(mode="json"),
        class_names=None,
        weights=weights,
        manifest={"parameters": 589, "notes": []},
    )
    classifier = Classifier(network, input_shape=(3, 6, 6), num_classes=5, normalization=NORMALIZATIONS["half"])
    data = labelled(classifier, n=60)
    with client.blobs.staging() as folder:
        names = list(data.class_names or ())
        write_dataset(folder / "data", [data._images], data._images.shape, "U8", data.labels, class_names=names)
        content = client.blobs.take(folder / "data")
    manifest = {
        "samples": 60, "shape": [3, 6, 6], "num_classes": 5, "class_names": names, "class_counts": [12] * 5,
        "notes": [], "warnings": [],
    }  # fmt: skip
    dataset = client.registry.add_dataset("random", content=content, manifest=manifest)
    return World(client, model.id, dataset.id)


def quick_spec() -> AuditSpec:
    return AuditSpec.load(
        {
            "samples": 30,
            "threats": [{"epsilon": 0.05}],
            "curve": [0.5],
            "curve_to_zero": False,
            "gallery": 2,
            "analysis_samples": 10,
        }
    )


def run_here(client: Client, job_id: str) -> str:
    """Run a queued job in this process, as a runner would; returns its id."""
    claim = client.ledger.claim(job_id, "test", 60)
    assert claim is not None
    with client.blobs.staging() as folder, TemporaryDirectory() as workspace:
        context = Context(client.registry, client.blobs, no_progress, folder, Path(workspace))
        output = client.request(job_id).run(context)
        files = {file.name: client.blobs.take(file) for file in output.files}
        content = client.blobs.put(output.content)
        made = {"child": output.child, "defense": output.defense}
        assert client.ledger.succeed(claim, content, output.summary, files, **made, state=output.state)
    return job_id
