"""The HisDiff networks, their processes, their samplers and the reader of published checkpoints: tensors only."""

from __future__ import annotations

from hisdiff_sd.nn._diffusion import GaussianDiffusion, TrainingLoss
from hisdiff_sd.nn._flow import FlowNetwork, flow_loss, flow_sample
from hisdiff_sd.nn._network import TRUNKS, HisDiffNetwork, largest_head_count
from hisdiff_sd.nn._published import load_published_state
from hisdiff_sd.nn._samplers import DEFAULT_SAMPLER, SAMPLERS, check_steps, diffusion_sample
from hisdiff_sd.nn._sampling import ancestral_sample, spaced_timesteps

__all__ = [
    "HisDiffNetwork",
    "TRUNKS",
    "GaussianDiffusion",
    "TrainingLoss",
    "FlowNetwork",
    "flow_loss",
    "flow_sample",
    "ancestral_sample",
    "diffusion_sample",
    "SAMPLERS",
    "DEFAULT_SAMPLER",
    "check_steps",
    "spaced_timesteps",
    "load_published_state",
    "largest_head_count",
]
