"""Neuron Auditor: where and why an image classifier breaks.

    from auditor import AuditSpec, Classifier, ImageDataset, run_audit, render_report

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditor.architecture import ARCHITECTURES, Architecture
    from auditor.attack import ATTACKS, Attack
    from auditor.audit import run as run_audit
    from auditor.audit_spec import AuditSpec
    from auditor.classifier import Classifier, Normalization
    from auditor.dataset import ImageDataset
    from auditor.errors import AuditorError
    from auditor.hardening import HARDENINGS, Hardening
    from auditor.report.html import render as render_report
    from auditor.result import AuditResult
    from auditor.threat import Norm, ThreatModel
    from auditor.training import train as train_classifier
    from auditor.training_result import TrainingResult
    from auditor.training_spec import TrainingSpec
    from auditor.vet import vet as vet_classifier

_WHERE = {
    "ARCHITECTURES": "architecture:ARCHITECTURES",
    "ATTACKS": "attack:ATTACKS",
    "Architecture": "architecture:Architecture",
    "Attack": "attack:Attack",
    "AuditResult": "result:AuditResult",
    "AuditSpec": "audit_spec:AuditSpec",
    "AuditorError": "errors:AuditorError",
    "Classifier": "classifier:Classifier",
    "HARDENINGS": "hardening:HARDENINGS",
    "Hardening": "hardening:Hardening",
    "ImageDataset": "dataset:ImageDataset",
    "Norm": "threat:Norm",
    "Normalization": "classifier:Normalization",
    "ThreatModel": "threat:ThreatModel",
    "TrainingResult": "training_result:TrainingResult",
    "TrainingSpec": "training_spec:TrainingSpec",
    "render_report": "report.html:render",
    "run_audit": "audit:run",
    "train_classifier": "training:train",
    "vet_classifier": "vet:vet",
}

__all__ = [
    "ARCHITECTURES",
    "ATTACKS",
    "HARDENINGS",
    "Architecture",
    "Attack",
    "AuditResult",
    "AuditSpec",
    "AuditorError",
    "Classifier",
    "Hardening",
    "ImageDataset",
    "Norm",
    "Normalization",
    "ThreatModel",
    "TrainingResult",
    "TrainingSpec",
    "render_report",
    "run_audit",
    "train_classifier",
    "vet_classifier",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'auditor' has no attribute {name!r}")
    module, _, item = _WHERE[name].partition(":")
    return getattr(importlib.import_module(f"auditor.{module}"), item)
