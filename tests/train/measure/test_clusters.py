"""The arithmetic of forms of parallel training on clusters of cards."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from headrace.store.errors import UsageError
from headrace.train.distributed.sharded_network import largest_gathered
from headrace.train.measure import clusters
from headrace.train.measure.clusters import (
    Cluster,
    DecoderWork,
    KernelCounter,
    UpdateWork,
    compare,
    forms_for,
    parse_clusters,
)
from headrace.train.parallel_form import parse_form

WORK = UpdateWork(flop=35e12, kernels=1000, batches=2, parameters=10**9, gathered=10**8, half=True)
"""On an H100, 35 TFLOP take 0.101 s."""
DECODER = DecoderWork(layers=24, heads=16, parameters=9 * 10**8, hidden_bytes=1e8)
DIVIDED = replace(WORK, decoder=DECODER)
H100 = Cluster(1, 8, "H100")
TWO = Cluster(2, 8, "H100")


def seconds(work: UpdateWork, cluster: Cluster, form: str, gbit: float = 100.0) -> dict[str, float]:
    return clusters.update_seconds(work, cluster, parse_form(form), gbit)


def test_clusters_are_read() -> None:
    assert parse_clusters("8xH100, 2x8xa100-40,T4") == (H100, Cluster(2, 8, "A100 40"), Cluster(1, 1, "T4"))
    assert [str(cluster) for cluster in parse_clusters("8xH100,2x8xA100-40,1xT4")] == ["8xH100", "2x8xA100-40", "1xT4"]
    for text in ("", "8xB1000", "x8xH100", "0xH100", "8xH100,"):
        with pytest.raises(UsageError, match="such as 8xH100 or 2x8xA100-40, of T4, V100, A100-40"):
            parse_clusters(text)


def test_forms_are_those_that_differ() -> None:
    assert forms_for(Cluster(1, 1, "T4"), DECODER) == ["dp"]
    assert forms_for(H100, None) == ["dp", "fsdp"]
    assert forms_for(TWO, None) == ["dp", "fsdp", "hsdp:2x8"]
    assert forms_for(TWO, DECODER) == ["dp", "fsdp", "hsdp:2x8", "tp:8", "pp:8x16"]
    assert forms_for(H100, replace(DECODER, heads=12)) == ["dp", "fsdp", "pp:8x16"]
    assert forms_for(H100, replace(DECODER, layers=7)) == ["dp", "fsdp", "tp:8"]
    assert forms_for(H100, replace(DECODER, layers=8)) == ["dp", "fsdp", "tp:8", "pp:8x16"]


def test_an_update_takes_what_its_operations_or_its_launches_take() -> None:
    assert seconds(WORK, H100, "dp")["compute_s"] == pytest.approx(35e12 / (0.35 * 989e12))
    assert seconds(replace(WORK, half=False), H100, "dp")["compute_s"] == pytest.approx(35e12 / (0.35 * 494e12))
    launched = UpdateWork(flop=1e9, kernels=20_000, batches=1, parameters=1, gathered=1, half=True)
    assert seconds(launched, H100, "dp")["compute_s"] == pytest.approx(0.1)


def test_bytes_over_links() -> None:
    """Gradients go round twice. Sharing gathers weights twice and sums gradients once, for each batch."""
    inside, between = 0.7 * 450e9, 0.7 * 12.5e9
    assert seconds(WORK, H100, "dp")["sent_s"] == pytest.approx(7 / 8 * 8e9 / inside)
    assert seconds(WORK, H100, "fsdp")["sent_s"] == pytest.approx(2 * 7 / 8 * 12e9 / inside)
    assert seconds(WORK, TWO, "dp")["sent_s"] == pytest.approx(15 / 16 * 8e9 / between)
    assert seconds(WORK, TWO, "fsdp")["sent_s"] == pytest.approx(2 * 15 / 16 * 12e9 / between)
    assert seconds(WORK, TWO, "dp", gbit=1e5)["sent_s"] == pytest.approx(15 / 16 * 8e9 / inside)
    within = 2 * 7 / 8 * 12e9 / inside
    assert seconds(WORK, TWO, "hsdp:2x8")["sent_s"] == pytest.approx(within + 4e9 / 8 / (between / 8))
    assert seconds(WORK, Cluster(1, 1, "H100"), "dp")["sent_s"] == 0


def test_dividing_layers_sends_hidden_states() -> None:
    inside, compute = 0.7 * 450e9, 35e12 / (0.35 * 989e12)
    by_tensors = seconds(DIVIDED, H100, "tp:8")
    assert by_tensors["compute_s"] == pytest.approx(compute / 8)
    layers, others = 2 * 4 * 24 * 7 / 8 * 2 * 1e8 / inside, 7 / 8 * 4e8 / inside
    assert by_tensors["sent_s"] == pytest.approx(layers + others)
    assert by_tensors["update_s"] == pytest.approx(by_tensors["compute_s"] + by_tensors["sent_s"])
    half_of_them = 2 * 4 * 24 * 3 / 4 * 2 * 1e8 / inside + 3 / 4 * 4e8 / inside
    assert seconds(DIVIDED, H100, "tp:4")["sent_s"] == pytest.approx(half_of_them + 4e9 / 4 / (0.7 * 12.5e9 / 8))
    by_stages = seconds(DIVIDED, H100, "pp:8x16")
    assert by_stages["update_s"] == by_stages["compute_s"] == pytest.approx(compute / 8 * (1 + 7 / 16))
    assert by_stages["sent_s"] == pytest.approx(2 * 2 * 1e8 / inside)
    small = replace(DIVIDED, flop=1e9, kernels=20_000)
    assert seconds(small, H100, "tp:8")["compute_s"] == pytest.approx(0.1)
    assert seconds(small, H100, "pp:8x16")["compute_s"] == pytest.approx(16 * 0.1 / 8 * (1 + 7 / 16))
    of_copies = 4e9 / 8 / (0.7 * 12.5e9 / 8)
    assert seconds(DIVIDED, TWO, "pp:8x16")["sent_s"] == pytest.approx(by_stages["sent_s"] + of_copies)


def test_forms_are_compared_by_how_long_a_run_takes() -> None:
    """Processes that divide layers make an update of fewer batches."""
    rooms = dict.fromkeys([(H100, form) for form in ("dp", "fsdp", "tp:8", "pp:8x16")], 1000)
    rows = compare(DIVIDED, [H100], rooms, frames=1, batches=64, epochs=1, network_gbit=100)
    updates = {row["parallel"]: round(row["hours"] * 3600 / row["update_s"]) for row in rows}
    assert updates == {"dp": 4, "fsdp": 4, "tp:8": 32, "pp:8x16": 32}
    assert [row["parallel"] for row in rows if row["fastest"]] == ["dp"]
    assert min(rows, key=lambda row: row["update_s"])["parallel"] == "pp:8x16"


def test_what_is_sent_hides_under_what_is_computed() -> None:
    found = seconds(WORK, H100, "dp")
    assert found["update_s"] == found["compute_s"] > found["sent_s"]
    slow = seconds(WORK, TWO, "dp", gbit=10)
    assert slow["update_s"] == pytest.approx(slow["sent_s"] + slow["compute_s"] / 3)
    gathers = seconds(WORK, TWO, "fsdp", gbit=10)
    assert gathers["update_s"] == gathers["sent_s"] > gathers["compute_s"]
    wide = seconds(replace(DIVIDED, decoder=replace(DECODER, hidden_bytes=1e12)), H100, "pp:8x16")
    assert wide["update_s"] == wide["sent_s"] > wide["compute_s"]
    copies, of_copies = seconds(DIVIDED, TWO, "pp:8x16", gbit=10), 4e9 / 8 / (0.7 * 1.25e9 / 8)
    assert copies["update_s"] == pytest.approx(of_copies + copies["compute_s"] / 3)


def test_the_fastest_is_one_that_fits() -> None:
    rooms = {(H100, "dp"): 100, (H100, "fsdp"): 1000}

    def fastest(frames: int) -> list[str]:
        rows = compare(WORK, [H100], rooms, frames=frames, batches=32, epochs=3, network_gbit=100)
        assert [row["fits"] for row in rows] == [frames <= 100, frames <= 1000]
        assert rows[0]["hours"] == pytest.approx(3 * 2 * rows[0]["update_s"] / 3600)
        return [row["parallel"] for row in rows if row["fastest"]]

    assert fastest(100) == ["dp"] and fastest(500) == ["fsdp"] and fastest(2000) == []


def test_memory_is_shared_but_for_what_is_gathered() -> None:
    assert clusters.state_bytes(WORK, parse_form("dp"), 8) == (12e9, 4e9)
    assert clusters.state_bytes(WORK, parse_form("fsdp"), 8) == (12e9 / 8 + 4e8, 4e9 / 8 + 4e8)
    assert clusters.state_bytes(WORK, parse_form("hsdp:2x4"), 8) == (12e9 / 4 + 4e8, 4e9 / 4 + 4e8)
    assert clusters.state_bytes(DIVIDED, parse_form("pp:8x16"), 8) == (12 * (9e8 / 8 + 1e8), 4 * (9e8 / 8 + 1e8))
    assert clusters.state_bytes(DIVIDED, parse_form("tp:8"), 8) == (4 * (9e8 / 8 + 1e8) + 8e9 / 8, 4 * (9e8 / 8 + 1e8))
    network = nn.ModuleList([nn.Linear(9, 10), nn.Conv1d(1, 5, 1), nn.Conv1d(1, 6, 1), nn.Conv1d(1, 7, 1)])
    assert largest_gathered(network, (nn.Conv1d,)) == 100 + 12 + 14


def test_kernels_are_counted_without_views() -> None:
    x = torch.ones(4, 4)
    with KernelCounter() as counter:
        (x.view(16)[:4] + 1).unsqueeze(0).mul_(2)
    assert counter.count == 2
