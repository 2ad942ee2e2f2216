"""Parts of the library in a training loop of your own: plain tensors and modules, and no run.

python examples/parts.py [FOLDER]
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import unshaken
from unshaken.attacks import PGD, Linf
from unshaken.base.rng import Key
from unshaken.corruptions import Corruption
from unshaken.losses import effective_rank, nt_xent
from unshaken.transforms import DigitViews

pixels, label = load_digits(return_X_y=True)
x, y = torch.tensor(pixels).float().view(-1, 1, 8, 8) / 16, torch.tensor(label)

torch.manual_seed(1)
net = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
    nn.Linear(64 * 16, 64),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
attack, views, key = PGD(Linf(0.1), steps=3), DigitViews(), Key(1)


def loss_of_views(v):
    return nt_xent(torch.stack([net(v[0]), net(v[1])]), 0.5)


# Adversarial contrastive learning: views, an attack on their loss, a step. Random draws depend on the key.
for step in range(40):
    batch = x[torch.randint(1200, (128,))]
    v = views(batch, 1.0, key / "views" / step)
    v_adv = attack(loss_of_views, v, None, key / "attack" / step)
    loss = loss_of_views(v_adv) + loss_of_views(v)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {loss.item():.2f}, effective rank {effective_rank(net(x[1200:]).detach()):.1f}")

# A linear classifier on the features, by least squares; then clean, attacked and corrupted accuracy.
with torch.no_grad():
    theta = torch.linalg.lstsq(net(x[:1200]), nn.functional.one_hot(y[:1200], 10).float()).solution


def classifier(images):
    return net(images) @ theta


test, answers = x[1200:1500], y[1200:1500]
attacked = PGD(Linf(0.1), steps=20)(classifier, test, answers, key / "test")
noisy = Corruption("gaussian_noise", 3)(test, key / "noise", torch.arange(len(test)))
for name, images in {"clean": test, "attacked": attacked, "noisy": noisy}.items():
    print(f"{name}: {int((classifier(images).argmax(1) == answers).sum())} of {len(test)}")

# The evaluation, with verdicts and an interval, takes the function as it is.
result = unshaken.evaluate(classifier, (test, answers), unshaken.Evaluation(PGD(Linf(0.1), steps=20)))
print(f"robust: {result['robust']['correct']} of {result['robust']['n']}")
