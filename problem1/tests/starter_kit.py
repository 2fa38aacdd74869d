"""A script that a fellow student wrote for the course's starter kit; it knows the contract alone.

    cd problem1 && PYTHONPATH=. python tests/starter_kit.py DATA_DIR

It trains one epoch by hand, saves and loads the weights, collects attention maps by hooks, ablates
heads by the columns of the output matrix, and evaluates by `generate`.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn as nn

from attention import MultiHeadAttention, create_causal_mask, scaled_dot_product_attention
from dataset import AdditionDataset, collate_fn, create_dataloaders, get_vocab_size
from model import Seq2SeqTransformer

PAD, SOS = 11, 12
device = torch.device("cpu")
data_dir = sys.argv[1]
torch.manual_seed(1)


def build():
    sizes = {"num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2, "d_ff": 64}
    return Seq2SeqTransformer(get_vocab_size(num_digits=2), d_model=32, **sizes).to(device)


def evaluate(net, loader):
    """Sequence accuracy, free-running."""
    net.eval()
    right = total = 0
    with torch.no_grad():
        for batch in loader:
            inputs, targets = batch["input"].to(device), batch["target"].to(device)
            answer = net.generate(inputs, max_len=targets.size(1), start_token=SOS)
            assert answer.shape == targets.shape
            right += (answer == targets).all(dim=1).sum().item()
            total += targets.size(0)
    return right / total


# Train one epoch.
train_loader, val_loader, test_loader = create_dataloaders(data_dir, batch_size=16, num_workers=0)
net = build()
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
losses = []
net.train()
for batch in train_loader:
    inputs, targets = batch["input"].to(device), batch["target"].to(device)
    assert set(batch) >= {"input", "target", "input_len", "target_len"}
    start = torch.full((targets.size(0), 1), SOS, dtype=torch.long)
    decoder_input = torch.cat([start, targets[:, :-1]], dim=1)
    src_mask = (inputs != PAD).long()  # [B, S]
    tgt_mask = create_causal_mask(decoder_input.size(1), device=device)
    logits = net(inputs, decoder_input, src_mask, tgt_mask)
    loss = criterion(logits.reshape(-1, net.vocab_size), targets.reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())

# Save and load: the state dict alone, and inside a dict of one's own.
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "checkpoint.pth"
    torch.save({"epoch": 1, "model_state_dict": net.state_dict()}, path)
    checkpoint = torch.load(path, map_location=device)
    torch.save(net.state_dict(), path)
    weights_alone = {k: v for k, v in torch.load(path).items() if not k.endswith("extra_state")}
copy, second = build(), build()
copy.load_state_dict(checkpoint["model_state_dict"])
second.load_state_dict(weights_alone)
accuracies = [evaluate(each, val_loader) for each in (net, copy)]

# Padded items of one's own, with a mask [B, S]: the same logits as without the padding.
dataset = AdditionDataset(Path(data_dir) / "test.json", pad_token=PAD)
batch = collate_fn([dataset[i] for i in range(8)])
padded = nn.functional.pad(batch["input"], (0, 3), value=PAD)
decoder_input = nn.functional.pad(batch["target"][:, :-1], (1, 0), value=SOS)
with torch.no_grad():
    plain = copy(batch["input"], decoder_input)
    masked = copy(padded, decoder_input, (padded != PAD).float(), None)
    memory = copy.encode(batch["input"])
    by_hand = copy.output_projection(copy.decode(decoder_input, memory))
difference = max((plain - masked).abs().max().item(), (plain - by_hand).abs().max().item())

# Attention maps, by hooks.
maps, handles = {}, []


def collect(name):
    return lambda module, args, output: maps.setdefault(name, []).append(output[1])


for i, layer in enumerate(copy.encoder_layers):
    handles.append(layer.self_attn.register_forward_hook(collect(f"encoder_{i}_self")))
for i, layer in enumerate(copy.decoder_layers):
    handles.append(layer.self_attn.register_forward_hook(collect(f"decoder_{i}_self")))
    handles.append(layer.cross_attn.register_forward_hook(collect(f"decoder_{i}_cross")))
with torch.no_grad():
    copy(batch["input"], decoder_input)
for handle in handles:
    handle.remove()

# Ablate each head: its columns of W_o are zero.
changes = {}
for name, attention in copy.named_modules():
    if isinstance(attention, MultiHeadAttention):
        for head in range(attention.num_heads):
            columns = slice(head * attention.d_k, (head + 1) * attention.d_k)
            kept = attention.W_o.weight.data.clone()
            attention.W_o.weight.data[:, columns] = 0
            with torch.no_grad():
                change = (copy(batch["input"], decoder_input) - plain).abs().max().item()
            changes[f"{name}.{head}"] = change
            attention.W_o.weight.data = kept

# The attention function alone.
q = k = v = torch.randn(2, 4, 5, 8)
output, weights = scaled_dot_product_attention(q, k, v, mask=create_causal_mask(5))

found = {
    "losses": losses,
    "accuracies": [*accuracies, evaluate(second, val_loader)],
    "difference": difference,
    "maps": {name: list(seen[0].shape) for name, seen in maps.items()},
    "changes": list(changes.values()),
    "attention": [list(output.shape), list(weights.shape)],
    "test_accuracy": evaluate(copy, test_loader),
}
print(json.dumps(found))
