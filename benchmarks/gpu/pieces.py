"""The pieces, in the order of the page."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import Piece
from benchmarks.gpu.features import content, engines_agree, featurizing
from benchmarks.gpu.training import memory, sharding, store_to_device, training_steps
from benchmarks.gpu.verification import cuda_tests, losses_agree

PIECES = (
    Piece(name="tests", measures="tests that need CUDA", run=cuda_tests),
    Piece(name="losses", measures="losses on the device against those on the CPU", run=losses_agree),
    Piece(name="parity", measures="features of each engine against the CPU's", run=engines_agree),
    Piece(name="featurizing", measures="log-mel and MFCC: the device alone, and behind decoding", run=featurizing),
    Piece(name="content", measures="content features by HuBERT base", run=content),
    Piece(name="store", measures="batches from a store to the device", run=store_to_device),
    *(
        Piece(
            name=f"{stage}-{precision}",
            measures=f"steps of {stage} v2 in {precision}",
            run=partial(training_steps, stage=stage, precision=precision),
        )
        for stage in ("sovits", "gpt")
        for precision in ("fp32", "bf16", "fp16")
    ),
    Piece(name="sharding", measures="steps of one process by the code that shares a model out", run=sharding),
    Piece(name="memory", measures="memory of a step against what `train plan` says", run=memory),
)
