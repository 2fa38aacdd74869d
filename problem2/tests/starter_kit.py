"""A script as the course's starter kit and fellow students write them, to be run unchanged in problem 2's folder.

It trains an epoch, saves and loads weights, hooks every attention, draws an encoding, and silences heads.
"""

import sys

import torch
import torch.nn as nn

from dataset import create_dataloaders, create_extrapolation_loader
from model import create_model
from positional_encoding import visualize_positional_encoding

folder = sys.argv[1]
train_loader, val_loader, test_loader = create_dataloaders(f"{folder}/data", batch_size=8)
sizes = dict(d_model=16, num_heads=2, num_layers=2, d_ff=32)
model = create_model("sinusoidal", **sizes)
criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

model.train()
for batch in train_loader:
    optimizer.zero_grad()
    loss = criterion(model(batch["sequence"], batch["mask"]), batch["label"])
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), f"{folder}/best_model.pth")

model = create_model("sinusoidal", **sizes)
model.load_state_dict(torch.load(f"{folder}/best_model.pth"))
model.eval()

weights = {}
for i, layer in enumerate(model.layers):
    layer.self_attn.register_forward_hook(lambda module, args, output, i=i: weights.__setitem__(i, output[1].detach()))
correct = total = 0
with torch.no_grad():
    for batch in create_extrapolation_loader(f"{folder}/data", 32, batch_size=8):
        predicted = model.predict(batch["sequence"], batch["mask"])
        correct += (predicted == batch["label"]).sum().item()
        total += len(predicted)
print("accuracy", 0 <= correct / total <= 1)
print("weights", [tuple(weights[i].shape[1:]) for i in sorted(weights)])

print("encoding", visualize_positional_encoding(model.pos_encoding, max_len=20, d_model=16).shape)

with torch.no_grad():
    batch = next(iter(val_loader))
    before = model(batch["sequence"], batch["mask"])
    for layer in model.layers:
        attention = layer.self_attn
        d_k = attention.d_model // attention.num_heads
        for head in range(attention.num_heads):
            attention.W_o.weight[:, head * d_k:(head + 1) * d_k] = 0
    after = model(batch["sequence"], batch["mask"])
print("silenced", not torch.equal(before, after))
