"""Distributed training: one process per device, and what they exchange.

Without a launcher such as torchrun there is one process, and nothing is exchanged.
"""

from headrace.train.distributed.collectives import (
    all_gather,
    all_reduce,
    broadcast_buffers,
    gather_integers,
    maximum,
)
from headrace.train.distributed.divided_layers import DividedLayers
from headrace.train.distributed.gradient_buckets import GradientBuckets, ReductionOptions
from headrace.train.distributed.machines import Machines
from headrace.train.distributed.network_parts import NetworkInParts, make_mesh
from headrace.train.distributed.process_group import cuda_device, process_group, rank, watch, world_size
from headrace.train.distributed.replicas import agreed, broadcast_state, check_state, on_first_rank
from headrace.train.distributed.sharded_network import ShardedNetwork

__all__ = [
    "DividedLayers",
    "GradientBuckets",
    "Machines",
    "NetworkInParts",
    "ReductionOptions",
    "ShardedNetwork",
    "agreed",
    "all_gather",
    "all_reduce",
    "broadcast_buffers",
    "broadcast_state",
    "check_state",
    "cuda_device",
    "gather_integers",
    "make_mesh",
    "maximum",
    "on_first_rank",
    "process_group",
    "rank",
    "watch",
    "world_size",
]
