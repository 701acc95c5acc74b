"""The text-to-semantic decoder: parity with the reference, who sees whom, and what is never allocated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.train.models import gpt_config, prefix_attention
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.prefix_attention import PrefixAttention, attend
from headrace.train.stages import gpt_losses
from headrace.train.stages.gpt_inputs import GptInputs
from tests.helpers.dispatch_modes import LargestTensor
from tests.helpers.golden_recipe import SMALL_GPT, fill, fingerprint, gpt_inputs, integers, normal, safetensors

TINY = GptConfig(symbols=20, codes=16, bert_channels=8, channels=16, heads=2, layers=2)


@pytest.mark.parametrize(("fixture", "config"), [("s1_v1_state", gpt_config.v1()), ("s1_v2_state", gpt_config.v2())])
def test_parameters_have_the_published_names_shapes_and_order(golden: Path, fixture: str, config: GptConfig) -> None:
    published = json.loads((golden / f"{fixture}.json").read_text())
    with torch.device("meta"):
        model = Text2SemanticDecoder(config)
    assert [(name, list(value.shape)) for name, value in model.state_dict().items()] == [
        (name, entry["shape"]) for name, entry in published["state"].items()
    ]
    assert [name for name, _ in model.named_parameters()] == list(published["state"])
    assert sum(parameter.numel() for parameter in model.parameters()) == published["meta"]["n_params"]


def decoder(config: GptConfig = TINY) -> Text2SemanticDecoder:
    torch.manual_seed(0)
    return Text2SemanticDecoder(config).eval()


def reference(config: GptConfig) -> Text2SemanticDecoder:
    model = Text2SemanticDecoder(config).eval()
    fill(model)
    return model


def ask(model: Text2SemanticDecoder, x: GptInputs, **options: bool) -> Tensor:
    return model(x.phones, x.phones_n, x.codes, x.codes_n, x.bert, **options)


def watched(model: Text2SemanticDecoder, x: GptInputs) -> tuple[Tensor, Tensor, Tensor]:
    """What goes into the transformer, what comes out of it, and the logits; masked as the reference does."""
    passed: list[Tensor] = []
    hook = model.h.register_forward_hook(lambda _, given, made: passed.extend((given[0], made)))
    logits = ask(model, x, upstream_mask=True)
    hook.remove()
    return *passed, logits


def test_every_intermediate_matches_the_reference(golden: Path) -> None:
    want = np.load(golden / "s1_golden.npz")
    x = gpt_inputs("s1small", SMALL_GPT, [9, 6], [14, 11])
    given = (x.phones, x.phones_n, x.codes_n, x.bert.mT)
    for made, name in zip(given, ("x", "x_lens", "y_lens", "bert"), strict=True):
        np.testing.assert_array_equal(made.numpy(), want[f"in.{name}"], err_msg=name)
    with torch.no_grad():
        embedded, hidden, logits = watched(reference(SMALL_GPT), x)
    targets, _ = gpt_losses.targets(x.codes, x.codes_n, SMALL_GPT.end)
    np.testing.assert_array_equal(targets.numpy(), want["fwd.targets"])
    np.testing.assert_allclose(logits.numpy(), want["fwd.logits"], rtol=0, atol=1e-5)
    for row, hid in enumerate([0, 3]):  # phones that the reference hides from everybody are not here at all
        for made, name in ((embedded, "fwd.xy_pos"), (hidden, "fwd.dec")):
            seen = want[name][row, hid:]
            np.testing.assert_allclose(made[row, : len(seen)].numpy(), seen, rtol=0, atol=1e-5, err_msg=name)


def test_losses_and_gradients_match_the_reference(golden: Path) -> None:
    facts = json.loads((golden / "s1_golden.json").read_text())
    model, x = reference(SMALL_GPT), gpt_inputs("s1small", SMALL_GPT, [9, 6], [14, 11])
    logits = ask(model, x, upstream_mask=True)
    targets, counted = gpt_losses.targets(x.codes, x.codes_n, SMALL_GPT.end)
    loss = -gpt_losses.log_likelihood(logits, targets, torch.ones_like(counted)).sum()
    assert loss.item() == pytest.approx(facts["fwd"]["loss"], rel=1e-6)
    right, codes = gpt_losses.top_k_hits(logits, targets, SMALL_GPT.end)
    assert float(right / codes) == facts["fwd"]["top3_acc"]
    loss.backward()
    gradients = safetensors(golden / "s1_small_grads.safetensors")
    assert set(gradients) == set(facts["grad_norms"]) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), gradients[name], rtol=0, atol=1e-4, err_msg=name)
        assert float(parameter.grad.norm()) == pytest.approx(facts["grad_norms"][name], rel=1e-4), name


@pytest.mark.slow
def test_the_full_size_decoder_matches_the_reference(golden: Path) -> None:
    want, facts = np.load(golden / "s1_golden.npz"), json.loads((golden / "s1_golden.json").read_text())["full"]
    model, x = reference(gpt_config.v2()), gpt_inputs("s1full", gpt_config.v2(), [31, 22], [60, 47])
    with torch.no_grad():
        _, _, logits = watched(model, x)
    np.testing.assert_allclose(logits[:, 0].numpy(), want["full.logits_first"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits[:, -1].numpy(), want["full.logits_last"], rtol=0, atol=1e-4)
    made = fingerprint(logits.numpy())
    assert made["shape"] == facts["logits"]["shape"]
    assert made["l2"] == pytest.approx(facts["logits"]["l2"], rel=1e-5)
    targets, counted = gpt_losses.targets(x.codes, x.codes_n, gpt_config.v2().end)
    loss = -gpt_losses.log_likelihood(logits, targets, torch.ones_like(counted)).sum()
    assert float(loss) == pytest.approx(facts["loss"], rel=1e-5)


def seen_by_each(attention: PrefixAttention, rows: int, size: int) -> Tensor:
    """(B, L, L) bool: with equal scores and one-hot values, the answer to a query is who it sees."""
    nothing = torch.zeros(rows, 1, size, size)
    return attention(nothing, nothing, torch.eye(size).expand(rows, 1, -1, -1), 0.0)[:, 0] > 0


def in_one_call(attention: PrefixAttention, rows: int, size: int) -> PrefixAttention:
    return attention.in_one_call(torch.zeros(rows, size, 1), 1)


@pytest.mark.parametrize("calls", [1, 2])
def test_text_attends_to_all_text_and_codes_attend_causally(calls: int) -> None:
    text_n, size = torch.tensor([4, 2]), 9
    attention = PrefixAttention(text_n, 4)
    seen = seen_by_each(in_one_call(attention, 2, size) if calls == 1 else attention, 2, size)
    i, j = torch.arange(size)[:, None], torch.arange(size)
    for row, n in enumerate(text_n.tolist()):
        assert torch.equal(seen[row], (j < n) | (j <= i) & (i >= n))


@pytest.mark.parametrize("calls", [1, 2])
def test_upstream_mask_matches_the_reference(golden: Path, calls: int) -> None:
    want = np.load(golden / "s1_golden.npz")
    attention = PrefixAttention(torch.tensor([9, 6]), 9).attend_from_padding(torch.tensor([23, 17]), 23)
    attention = in_one_call(attention, 2, 23) if calls == 1 else attention
    seen = seen_by_each(attention, 2, 23).numpy()
    np.testing.assert_array_equal(seen[0], want["fwd.attn_mask_b0h0"] == 0)
    np.testing.assert_array_equal(seen[1, :20, :20], want["fwd.attn_mask_b1h0"][3:, 3:] == 0)


@pytest.mark.parametrize(("length", "scores", "calls"), [(40, 4_000_000, 1), (1025, 4_000_000, 2), (40, 6000, 2)])
def test_short_sequences_take_one_call(monkeypatch: pytest.MonkeyPatch, length: int, scores: int, calls: int) -> None:
    made = []
    monkeypatch.setattr(prefix_attention, "MAX_STORED_SCORES", scores)
    monkeypatch.setattr(prefix_attention, "attend", lambda q, *_, **options: made.append(options) or q)
    x = torch.zeros(2, length, 4)
    attention = PrefixAttention(torch.tensor([4, 2]), 4).in_one_call(x, 2)
    attention(*x.expand(3, 2, 2, length, 4), 0.1)
    assert len(made) == calls


def random_inputs(config: GptConfig, phones_n: list[int], codes_n: list[int], seed: int = 0) -> GptInputs:
    torch.manual_seed(seed)
    return GptInputs(
        phones=torch.randint(config.symbols, (len(phones_n), max(phones_n))),
        phones_n=torch.tensor(phones_n),
        codes=torch.randint(config.codes, (len(codes_n), max(codes_n))),
        codes_n=torch.tensor(codes_n),
        bert=torch.randn(len(phones_n), max(phones_n), config.bert_channels),
    )


def row_alone(x: GptInputs, row: int) -> GptInputs:
    phones, codes = int(x.phones_n[row]), int(x.codes_n[row])
    return GptInputs(
        phones=x.phones[row : row + 1, :phones],
        phones_n=x.phones_n[row : row + 1],
        codes=x.codes[row : row + 1, :codes],
        codes_n=x.codes_n[row : row + 1],
        bert=x.bert[row : row + 1, :phones],
    )


@torch.no_grad()
def test_outputs_do_not_depend_on_the_batch() -> None:
    model, x = decoder(), random_inputs(TINY, [7, 3, 5], [4, 10, 1])
    logits = ask(model, x)
    for row, codes in enumerate(x.codes_n.tolist()):
        alone = ask(model, row_alone(x, row))
        torch.testing.assert_close(logits[row, : codes + 1], alone[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_masks_agree_where_all_lengths_are_equal() -> None:
    model, x = decoder(), random_inputs(TINY, [6, 6], [9, 9])
    torch.testing.assert_close(ask(model, x), ask(model, x, upstream_mask=True), rtol=0, atol=1e-5)
    uneven = random_inputs(TINY, [6, 4], [9, 9])
    assert (ask(model, uneven) - ask(model, uneven, upstream_mask=True)).abs().max() > 0.01


@torch.no_grad()
def test_codes_depend_on_all_text_and_no_later_code() -> None:
    model, x = decoder(), random_inputs(TINY, [5], [8])
    logits = ask(model, x)
    x.codes[0, 4] = (x.codes[0, 4] + 1) % TINY.codes
    changed = (ask(model, x) - logits).abs().amax(2)[0] > 1e-6
    assert changed.tolist() == [False] * 5 + [True] * 4
    x.phones[0, 4] = (x.phones[0, 4] + 1) % TINY.symbols
    assert ((ask(model, x) - logits).abs().amax(2)[0] > 1e-6).all()


def test_a_language_without_bert_counts_as_zeros() -> None:
    model, x = decoder(), random_inputs(TINY, [5], [8])
    torch.testing.assert_close(
        model.embed_text(x.phones, None), model.embed_text(x.phones, torch.zeros_like(x.bert)), rtol=0, atol=1e-6
    )


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    model, x = decoder().train(), random_inputs(TINY, [7, 3], [4, 10])
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(3)  # dropout
        model.zero_grad()
        ask(model, x, activation_checkpointing=checkpointing).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, again, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_attention_scores_are_never_allocated(training: bool) -> None:
    """Not in one direction nor the other, with dropout or without, whether lengths differ or not."""
    config = GptConfig(symbols=20, codes=16, bert_channels=8, channels=32, heads=16, layers=1, dropout=0.1)
    model, x = decoder(config).train(training), random_inputs(config, [300, 200], [700, 900])
    with LargestTensor() as largest:
        ask(model, x).sum().backward()
    L = 1200
    assert largest.numel >= 2 * L * 4 * config.channels  # it does look: the feed-forward layer is there
    assert largest.numel < 2 * config.heads * L * L / 5


def test_dropout_in_blocks_has_the_same_rate() -> None:
    """Attention to equal values is a sum of weights: 1 where none are dropped, on average 1 where some are."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 4, 300, 8), torch.randn(1, 4, 300, 8), torch.ones(1, 4, 300, 8)
    dropped = attend(q, k, v, causal=True, dropout=0.25)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert dropped[:, :, 200:].std() > 0.01
    assert all(weight in (0, pytest.approx(4 / 3)) for weight in dropped[0, :, 0, 0].tolist())  # sees itself alone
    exact, kept = (attend(q, k, k, causal=True, dropout=share) for share in (0.0, 1e-9))
    torch.testing.assert_close(kept, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [20, 1100])  # the scores of the longer one are computed in blocks
def test_attention_that_drops_nothing_sees_what_a_mask_shows(size: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, size, 8) for _ in range(3))
    keys = torch.rand(1, 1, 1, size) < 0.5
    added = torch.where(torch.rand(1, 1, size, size) < 0.5, 0.0, -torch.inf)
    for given in ({"causal": True}, {"mask": keys}, *([{"mask": added}] if size == 20 else [])):
        exact, kept = (attend(q, k, v, dropout=share, **given) for share in (0.0, 1e-9))  # type: ignore[arg-type]
        torch.testing.assert_close(kept, exact, rtol=0, atol=1e-5)


def test_top_three_accuracy_matches_the_reference(golden: Path) -> None:
    want = json.loads((golden / "data_mini.json").read_text())["acc"]["value"]
    logits, targets = torch.from_numpy(normal("acc.logits", (2, 65, 40))).mT.clone(), integers("acc.t", (2, 40), 0, 65)
    targets[1, 30:] = 64
    logits[0, torch.arange(40), torch.from_numpy(targets[0])] += 2
    right, codes = gpt_losses.top_k_hits(logits, torch.from_numpy(targets), 64)
    assert float(right / codes) == pytest.approx(want, abs=1e-6)
