"""A script as a fellow student writes it from the course's contract; it runs in problem 2's folder.

It trains each encoding for one epoch by hand, saves and loads the weights, looks through hooks,
silences heads, evaluates on longer sequences, and draws the encodings.
"""

import sys

import torch
import torch.nn as nn

from dataset import (
    ExtrapolationDataset,
    SortingDataset,
    collate_fn,
    create_dataloaders,
    create_extrapolation_loader,
)
from generate_data import generate_dataset
from model import SortingClassifier, create_model
from positional_encoding import get_positional_encoding, visualize_positional_encoding

DATA, OUTPUT = sys.argv[1:]
DEVICE = torch.device("cpu")
HPARAMS = {"vocab_size": 101, "d_model": 32, "num_heads": 4, "num_layers": 2, "d_ff": 64}


def run_epoch(model, loader, criterion, optimizer):
    model.train()
    total = 0.0
    for batch in loader:
        sequences = batch["sequence"].to(DEVICE)
        labels = batch["label"].to(DEVICE)
        mask = batch["mask"].to(DEVICE)
        optimizer.zero_grad()
        loss = criterion(model(sequences, mask), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
    return total / len(loader.dataset)


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    hits, seen = 0, 0
    for batch in loader:
        assert batch["sequence"].shape == batch["mask"].shape
        assert batch["mask"].sum(dim=1).tolist() == batch["length"].tolist()
        predictions = model.predict(batch["sequence"], batch["mask"].float())
        hits += (predictions == batch["label"]).sum().item()
        seen += batch["label"].size(0)
    return hits / seen


train_loader, val_loader, test_loader = create_dataloaders(DATA, batch_size=16, num_workers=0)
criterion = nn.CrossEntropyLoss()
for name in ("sinusoidal", "learned", "none"):
    torch.manual_seed(0)
    model = create_model(encoding_type=name, max_len=300, **HPARAMS).to(DEVICE)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first = run_epoch(model, train_loader, criterion, optimizer)
    second = run_epoch(model, train_loader, criterion, optimizer)
    assert second < first, "the loss falls"
    torch.save(model.state_dict(), f"{OUTPUT}/{name}.pth")

    # Loading by hand gives the same answers.
    restored = SortingClassifier(encoding_type=name, **HPARAMS)
    restored.load_state_dict(torch.load(f"{OUTPUT}/{name}.pth", map_location=DEVICE))
    assert accuracy(restored, val_loader) == accuracy(model, val_loader)
    assert accuracy(model, test_loader) >= 0.3

    # Longer sequences.
    for length in (32, 64):
        loader = create_extrapolation_loader(DATA, target_length=length, batch_size=8)
        assert len(loader.dataset) == len(ExtrapolationDataset(DATA, length))
        assert 0.3 <= accuracy(model, loader) <= 1

    # Attention through hooks: each layer's `self_attn` returns its output and its weights.
    captured = []

    def keep(module, inputs, outputs):
        captured.append(outputs[1])  # noqa: B023

    handles = [layer.self_attn.register_forward_hook(keep) for layer in model.encoder_layers]
    batch = collate_fn([SortingDataset(f"{DATA}/val.json")[i] for i in range(6)])
    with torch.no_grad():
        before = model(batch["sequence"], batch["mask"])
    for handle in handles:
        handle.remove()
    assert len(captured) == 2
    for weights in captured:
        size, heads, queries, keys = weights.shape
        assert (size, heads, queries) == (6, 4, keys)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(size, heads, queries))

    # Padding is masked: the same sequence alone has the same logits.
    with torch.no_grad():
        for i, n in enumerate(batch["length"].tolist()):
            alone = model(batch["sequence"][i : i + 1, :n])
            assert torch.allclose(alone, before[i : i + 1], atol=1e-5)
        one_mask = torch.ones(1, batch["sequence"].size(1))
        assert model(batch["sequence"], one_mask).shape == (6, 2)

    # Without the columns of W_o that read a head, the head is silent.
    with torch.no_grad():
        attention = model.encoder_layers[0].self_attn
        for head in range(attention.num_heads):
            start = head * attention.d_k
            attention.W_o.weight[:, start : start + attention.d_k] = 0
        assert not torch.allclose(model(batch["sequence"], batch["mask"]), before)

    # What the encoding adds.
    table = visualize_positional_encoding(model.pos_encoding, max_len=50, d_model=32)
    assert table.shape == (50, 32) and bool(table.any()) == (name != "none")
    x = torch.zeros(1, 50, 32)
    assert get_positional_encoding(name, 32, max_len=50)(x).shape == x.shape
    print(name, model.encoding_type, model.d_model, model.vocab_size, len(model.encoder_layers))

samples = generate_dataset(num_samples=20, min_len=4, max_len=6, sorted_prob=0.5, seed=1)
assert len(samples) == 20 and set(samples[0]) == {"sequence", "is_sorted", "length"}
