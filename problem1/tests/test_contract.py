"""Scripts written for the course's starter kit run unchanged on the modules of this folder."""

import json
import shutil
import subprocess
import sys
import textwrap

import torch

from attention import MultiHeadAttention
from dataset import get_vocab_size
from model import Seq2SeqTransformer
from support.digests import weights_digest
from tests.helpers import RESULTS, TemporaryFolder, copy_of_the_code

SCRIPT = """
    import json
    import torch
    from torch import nn
    from dataset import create_dataloaders, get_vocab_size
    from model import Seq2SeqTransformer
    from attention import create_causal_mask

    device = torch.device("cpu")
    train_loader, val_loader, test_loader = create_dataloaders("data", batch_size=16)
    model = Seq2SeqTransformer(vocab_size=get_vocab_size(2), d_model=32, num_heads=4, num_encoder_layers=2,
                               num_decoder_layers=2, d_ff=64).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    model.train()
    for batch in train_loader:
        inputs, targets = batch["input"].to(device), batch["target"].to(device)
        decoder_input = torch.cat([torch.full_like(targets[:, :1], 12), targets[:, :-1]], dim=1)
        mask = create_causal_mask(decoder_input.size(1), device)
        output = model(inputs, decoder_input, None, mask)
        loss = criterion(output.reshape(-1, model.vocab_size), targets.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), "best_model.pth")

    model = Seq2SeqTransformer(vocab_size=get_vocab_size(2), d_model=32, num_heads=4, num_encoder_layers=2,
                               num_decoder_layers=2, d_ff=64)
    model.load_state_dict(torch.load("best_model.pth", map_location=device))
    model.eval()

    maps, handles = {}, []
    def hook(name):
        def collect(module, inputs, output):
            maps.setdefault(name, []).append(output[1].detach().cpu())
        return collect
    for i, layer in enumerate(model.encoder_layers):
        handles.append(layer.self_attn.register_forward_hook(hook(f"encoder_{i}_self")))
    for i, layer in enumerate(model.decoder_layers):
        handles.append(layer.self_attn.register_forward_hook(hook(f"decoder_{i}_self")))
        handles.append(layer.cross_attn.register_forward_hook(hook(f"decoder_{i}_cross")))
    batch = next(iter(test_loader))
    with torch.no_grad():
        model(batch["input"], batch["target"])
        before = model.generate(batch["input"], max_len=3, start_token=12)
    for handle in handles:
        handle.remove()

    changed = {}
    for i, layer in enumerate(model.encoder_layers):
        attention = layer.self_attn
        for head in range(attention.num_heads):
            start = head * attention.d_k
            weight = attention.W_o.weight.data.clone()
            attention.W_o.weight.data[:, start:start + attention.d_model // attention.num_heads] = 0
            with torch.no_grad():
                changed[f"{i}.{head}"] = model(batch["input"], batch["target"]).abs().sum().item()
            attention.W_o.weight.data = weight
    print(json.dumps({"maps": {name: list(values[0].shape) for name, values in maps.items()}, "calls":
    len(maps["decoder_0_self"]),
                      "changed": len(set(changed.values())), "generated": list(before.shape)}))
"""


class StarterKit(TemporaryFolder):
    def test_a_script_that_trains_loads_hooks_and_ablates_runs_unchanged(self):
        copy = copy_of_the_code(self.folder / "problem1")
        shutil.copytree(self.small_data(2, (64, 16, 16)), copy / "data")
        (copy / "their_script.py").write_text(textwrap.dedent(SCRIPT))
        done = subprocess.run([sys.executable, "their_script.py"], cwd=copy, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        seen = json.loads(done.stdout)
        self.assertEqual(seen["maps"], {f"encoder_{i}_self": [16, 4, 5, 5] for i in range(2)}
                         | {f"decoder_{i}_self": [16, 4, 3, 3] for i in range(2)}
                         | {f"decoder_{i}_cross": [16, 4, 3, 5] for i in range(2)})
        self.assertEqual((seen["calls"], seen["changed"], seen["generated"]), (1 + 3, 8, [16, 3]))

    def test_the_committed_file_is_the_state_dict_of_a_model_made_by_hand(self):
        state = torch.load(RESULTS / "best_model.pth", weights_only=True)
        config = state["_extra_state"]["config"]
        model = Seq2SeqTransformer(get_vocab_size(3), config["d_model"], config["num_heads"],
                                   config["num_encoder_layers"],
                                   config["num_decoder_layers"], config["d_ff"])
        model.load_state_dict(state)
        self.assertEqual(weights_digest(model.state_dict()), weights_digest(state))
        self.assertEqual(model.about, state["_extra_state"]["about"])

    def test_weights_of_other_arguments_than_the_model_s_are_refused(self):
        state = torch.load(RESULTS / "best_model.pth", weights_only=True)
        for name, value in (("num_heads", 8), ("order", "right-to-left")):
            with self.assertRaisesRegex(ValueError, f"weights of a model with {name} = .* has {value!r}"):
                Seq2SeqTransformer(get_vocab_size(3), **{name: value}).load_state_dict(state)

    def test_attributes_that_such_scripts_read(self):
        attention = MultiHeadAttention(24, 3)
        self.assertEqual((attention.d_model, attention.num_heads, attention.d_k), (24, 3, 8))
        self.assertEqual(Seq2SeqTransformer(13, 24, 3).vocab_size, 13)


if __name__ == "__main__":
    import unittest
    unittest.main()
