"""Held-out nats of npgen's MADE beside an equal-sized MADE in torch: digits binarised at 8, random 80/20 split, seed 0.

    python benchmarks/made_digits.py [N_SEEDS]

Both: 64-500-64, ReLU, one random order, Adam 1e-3, batch 100, a tenth of the training rows held out for early stopping
with patience 20, best weights restored. The split is the same for every seed; the seed draws weights, order and batches.
"""
import copy
import sys

import numpy as np
import torch

from npgen import MADE, data


def torch_made(x, test, seed):
    """Test nats of a plain torch MADE, written as its paper has it."""
    torch.manual_seed(seed)
    rng, d, hidden = np.random.default_rng(seed), x.shape[1], 500
    degree = torch.from_numpy(rng.permutation(d) + 1)
    hidden_degree = torch.from_numpy(rng.integers(1, d, hidden))
    masks = [(degree[None, :] <= hidden_degree[:, None]).float(), (hidden_degree[None, :] < degree[:, None]).float()]
    layers = [torch.nn.Linear(d, hidden), torch.nn.Linear(hidden, d)]

    def nll(rows):
        h = torch.relu(torch.nn.functional.linear(rows, layers[0].weight * masks[0], layers[0].bias))
        logits = torch.nn.functional.linear(h, layers[1].weight * masks[1], layers[1].bias)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, rows, reduction="none").sum(1)

    parameters = [p for layer in layers for p in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    order = rng.permutation(len(x))
    valid, train = torch.from_numpy(x[order[:len(x) // 10]]), torch.from_numpy(x[order[len(x) // 10:]])
    best, kept, since = np.inf, None, 0
    while since < 20:
        for batch in torch.randperm(len(train)).split(100):
            optimizer.zero_grad()
            nll(train[batch]).mean().backward()
            optimizer.step()
        with torch.no_grad():
            value = nll(valid).mean().item()
        since += 1
        if value < best:
            best, kept, since = value, copy.deepcopy([p.data for p in parameters]), 0
    for p, value in zip(parameters, kept, strict=True):
        p.data.copy_(value)
    with torch.no_grad():
        return nll(torch.from_numpy(test)).mean().item()


def main(n_seeds=5):
    """Print the test nats of both, seed by seed, and their means."""
    x = (data.digits()[0] >= 8).astype(np.float32)
    train, test = data.train_test_split(x, 0.2, seed=0)
    rows = np.array([[-MADE(random_state=seed).fit(train).score(test), torch_made(train, test, seed)]
                     for seed in range(n_seeds)])
    print("seed   npgen   torch")
    for seed, (ours, theirs) in enumerate(rows):
        print(f"{seed:4d} {ours:7.3f} {theirs:7.3f}")
    print("mean {:7.3f} {:7.3f}".format(*rows.mean(axis=0)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
