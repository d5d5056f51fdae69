"""The gate: is the candidate's audit worse than the accepted baseline's? Nothing here loads torch."""

from odsg_lightning.gate.comparison import compare
from odsg_lightning.gate.config import CategoryRule, GateConfig, Margin, Rule
from odsg_lightning.gate.config_file import read_gate_config
from odsg_lightning.gate.floors import compare_with_floors
from odsg_lightning.gate.from_files import compare_files, floors_of_file
from odsg_lightning.gate.result import ChangedObject, CheckResult, GateResult, SkippedCheck

__all__ = [
    "CategoryRule",
    "ChangedObject",
    "CheckResult",
    "GateConfig",
    "GateResult",
    "Margin",
    "Rule",
    "SkippedCheck",
    "compare",
    "compare_files",
    "compare_with_floors",
    "floors_of_file",
    "read_gate_config",
]
