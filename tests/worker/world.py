"""A small world for jobs: a home with a tiny model and data set, and job kinds that behave as a test wants."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors.torch import save

from auditor.auditing.spec import AuditSpec
from auditor.kit.progress import no_progress
from auditor.models.architecture import ARCHITECTURES
from auditor.models.classifier import NORMALIZATIONS, Classifier
from auditor.models.dataset import write_dataset
from tests.nets import labelled
from worker.client import Client
from worker.job import Context
from worker.settings import Settings

SEED = 1
"""Of the tiny model's weights: with these it answers with several classes, and each run of the tests is alike."""

LAYERS = "nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)"

ODD_JOBS = '''
    """Jobs that misbehave, each in its own way."""

    import ctypes, gc, json, os, random, resource, sys, threading, time
    from pathlib import Path
    from typing import ClassVar, Literal

    import numpy as np
    import torch

    from auditor.kit.errors import EvaluationError
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
            if self.how == "deaf":  # nothing else of Python runs meanwhile
                ctypes.PyDLL(None).sleep(int(self.seconds))
            if self.how == "look":
                return Output(json.dumps(looked()).encode(), {})
            if self.how == "hang":
                time.sleep(self.seconds)
            steps = int(self.seconds * 10) if self.how == "slow" else 0
            for step in range(steps):
                time.sleep(0.1)
                context.on_progress(step / steps, f"step {step}")
            return Output(b"done", {"how": self.how})


    def looked():
        """What a process finds about itself, and what it computes."""
        early = sorted(name for name in sys.modules if name.split(".")[0] in ("auditor", "worker", "torch", "scipy"))
        drawn = [random.random(), float(np.random.rand()), float(np.random.default_rng().random()), float(torch.rand(1))]
        torch.manual_seed(3)
        images, layer = torch.rand(4, 8, 64, 64), torch.nn.Conv2d(8, 16, 3)
        answer = layer(images).relu()
        answer.sum().backward()
        status = dict(line.split(":\\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\\t" in line)
        memory = Path("/proc/self/smaps_rollup").read_text().splitlines()
        same = {
            "numbers": [images.sum().item(), answer.double().sum().item(), layer.weight.grad.double().sum().item()],
            "threads": torch.get_num_threads(), "cuda": torch.cuda._is_in_bad_fork(),
            "python": [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()],
            "folder": os.getcwd(), "umask": status["Umask"], "environment": dict(os.environ),
            "leads": [os.getpid() == os.getpgid(0), os.getpid() == os.getsid(0)],
            "limits": [resource.getrlimit(kind) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_AS)],
            "signals": [status[name] for name in ("SigBlk", "SigIgn", "SigCgt")],
            "files": sorted(os.readlink(f"/proc/self/fd/{number}").split(":")[0] for number in os.listdir("/proc/self/fd")
                            if os.path.exists(f"/proc/self/fd/{number}")),
            "collects": gc.isenabled(),
        }
        own = {
            "random": drawn,
            "number": os.getpid(), "parent": os.getppid(), "modules": early,
            "private": sum(int(line.split()[1]) for line in memory if line.startswith("Private")),
        }
        return {"same": same, "own": own}
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
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        network = architecture.build()
    weights = client.blobs.put(save(network.state_dict()))
    model = client.backend.registry.add_model(
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
    dataset = client.backend.registry.add_dataset("random", content=content, manifest=manifest)
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
        context = Context(client.backend.registry, client.blobs, no_progress, folder, Path(workspace))
        output = client.jobs.request(job_id).run(context)
        files = {file.name: client.blobs.take(file) for file in output.files}
        content = client.blobs.put(output.content)
        assert client.ledger.succeed(
            claim, content, output.summary, files, child=output.child, defense=output.defense, state=output.state
        )
    return job_id
