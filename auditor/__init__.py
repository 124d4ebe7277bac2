"""Neuron Auditor: where and why an image classifier breaks.

    from auditor import AuditSpec, Classifier, ImageDataset, audit, report

Names are loaded when they are first used, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.attacking.attack import ATTACKS, Attack
    from auditor.attacking.threat import Norm, ThreatModel
    from auditor.auditing.audit import run as audit
    from auditor.auditing.audit import run as run_audit
    from auditor.auditing.check import CHECKS, Check
    from auditor.auditing.corruption import CORRUPTIONS, Corruption
    from auditor.auditing.result import AuditResult
    from auditor.auditing.spec import AuditSpec
    from auditor.auditing.vet import vet as vet_classifier
    from auditor.certifying.certificate import CERTIFICATES, Certificate, Proofs, certify
    from auditor.data.samples import sample
    from auditor.defending.defense import DEFENSES, Defense
    from auditor.defending.evaluation import DefenseEvaluation, EvaluationSpec, FittedDefense, evaluate_defense
    from auditor.defending.fit import FitResult, FitSpec, fit
    from auditor.hardening.hardening import HARDENINGS, Hardening
    from auditor.hardening.result import TrainingResult
    from auditor.hardening.spec import TrainingSpec
    from auditor.hardening.training import train
    from auditor.hardening.training import train as train_classifier
    from auditor.kit.errors import AuditorError
    from auditor.models.architecture import ARCHITECTURES, Architecture
    from auditor.models.classifier import Classifier, Normalization
    from auditor.models.dataset import ImageDataset
    from auditor.neural.analysis import ANALYSES, Analysis
    from auditor.report.comparison import compare
    from auditor.report.html import render as render_report
    from auditor.report.html import render as report

_WHERE = {
    "ANALYSES": "neural.analysis:ANALYSES",
    "ARCHITECTURES": "models.architecture:ARCHITECTURES",
    "ATTACKS": "attacking.attack:ATTACKS",
    "Analysis": "neural.analysis:Analysis",
    "Architecture": "models.architecture:Architecture",
    "Attack": "attacking.attack:Attack",
    "AuditResult": "auditing.result:AuditResult",
    "AuditSpec": "auditing.spec:AuditSpec",
    "AuditorError": "kit.errors:AuditorError",
    "CERTIFICATES": "certifying.certificate:CERTIFICATES",
    "CHECKS": "auditing.check:CHECKS",
    "Certificate": "certifying.certificate:Certificate",
    "CORRUPTIONS": "auditing.corruption:CORRUPTIONS",
    "Check": "auditing.check:Check",
    "Classifier": "models.classifier:Classifier",
    "Corruption": "auditing.corruption:Corruption",
    "DEFENSES": "defending.defense:DEFENSES",
    "Defense": "defending.defense:Defense",
    "DefenseEvaluation": "defending.evaluation:DefenseEvaluation",
    "EvaluationSpec": "defending.evaluation:EvaluationSpec",
    "FitResult": "defending.fit:FitResult",
    "FitSpec": "defending.fit:FitSpec",
    "FittedDefense": "defending.evaluation:FittedDefense",
    "HARDENINGS": "hardening.hardening:HARDENINGS",
    "Hardening": "hardening.hardening:Hardening",
    "ImageDataset": "models.dataset:ImageDataset",
    "Norm": "attacking.threat:Norm",
    "Normalization": "models.classifier:Normalization",
    "Proofs": "certifying.certificate:Proofs",
    "ThreatModel": "attacking.threat:ThreatModel",
    "TrainingResult": "hardening.result:TrainingResult",
    "TrainingSpec": "hardening.spec:TrainingSpec",
    "audit": "auditing.audit:run",
    "certify": "certifying.certificate:certify",
    "compare": "report.comparison:compare",
    "evaluate_defense": "defending.evaluation:evaluate_defense",
    "fit": "defending.fit:fit",
    "render_report": "report.html:render",
    "report": "report:",  # the package itself, which can be called: its name is taken once a module of it is imported
    "run_audit": "auditing.audit:run",
    "sample": "data.samples:sample",
    "train": "hardening.training:train",
    "train_classifier": "hardening.training:train",
    "vet_classifier": "auditing.vet:vet",
}

__all__ = [
    "ANALYSES",
    "ARCHITECTURES",
    "ATTACKS",
    "CERTIFICATES",
    "CHECKS",
    "CORRUPTIONS",
    "DEFENSES",
    "HARDENINGS",
    "Analysis",
    "Architecture",
    "Attack",
    "AuditResult",
    "AuditSpec",
    "AuditorError",
    "Certificate",
    "Check",
    "Classifier",
    "Corruption",
    "Defense",
    "DefenseEvaluation",
    "EvaluationSpec",
    "FitResult",
    "FitSpec",
    "FittedDefense",
    "Hardening",
    "ImageDataset",
    "Norm",
    "Normalization",
    "Proofs",
    "ThreatModel",
    "TrainingResult",
    "TrainingSpec",
    "audit",
    "certify",
    "compare",
    "evaluate_defense",
    "fit",
    "render_report",
    "report",
    "run_audit",
    "sample",
    "train",
    "train_classifier",
    "vet_classifier",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    module, _, item = _WHERE[name].partition(":")
    loaded = importlib.import_module(f"auditor.{module}")
    return getattr(loaded, item) if item else loaded


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
