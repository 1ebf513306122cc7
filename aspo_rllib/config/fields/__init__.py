"""The table of all settings: each one stands here once, with its default, legal values, meaning and the paper's value.

The config's attributes, its builder methods with their signatures and docstrings, the checks of `validation` and
docs/config.md are made from this table.
"""

from aspo_rllib.config.fields.checkpointing import CHECKPOINTING
from aspo_rllib.config.fields.debugging import DEBUGGING
from aspo_rllib.config.fields.evaluation import EVALUATION
from aspo_rllib.config.fields.fault_tolerance import FAULT_TOLERANCE
from aspo_rllib.config.fields.llm import LLM
from aspo_rllib.config.fields.sampling import SAMPLING
from aspo_rllib.config.fields.training import TRAINING

BUILDERS = (LLM, SAMPLING, TRAINING, EVALUATION, FAULT_TOLERANCE, CHECKPOINTING, DEBUGGING)
FIELDS = tuple(field for builder in BUILDERS for field in builder.fields)
