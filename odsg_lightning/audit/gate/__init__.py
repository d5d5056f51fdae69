"""The gate: is the candidate's audit worse than the accepted baseline's? Nothing here loads torch."""

from odsg_lightning.audit.gate.comparison import compare
from odsg_lightning.audit.gate.config import CategoryRule, GateConfig, Margin, Rule
from odsg_lightning.audit.gate.config_file import read_gate_config
from odsg_lightning.audit.gate.from_files import compare_files
from odsg_lightning.audit.gate.result import ChangedObject, CheckResult, GateResult, LeftOut

__all__ = [
    "CategoryRule",
    "ChangedObject",
    "CheckResult",
    "GateConfig",
    "GateResult",
    "LeftOut",
    "Margin",
    "Rule",
    "compare",
    "compare_files",
    "read_gate_config",
]
