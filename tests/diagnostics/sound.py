"""Sound classifiers of digits, made in a second or two each: none of them gives a doctor anything to say."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.parametrizations import orthogonal

from unshaken.attacks.ball import L2, Ball, Linf
from unshaken.attacks.pgd import PGD
from unshaken.base.rng import Key
from unshaken.data.digits import digits
from unshaken.diagnostics.subject import ModelUnderTest
from unshaken.nets.dual_bn import with_routes
from unshaken.nets.network import Encoder, Network, Normalize, seeded
from unshaken.nets.resnet import BasicBlock, ResNet


def images(split: str, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """In an order that depends on the seed; of two classes, even and odd digits."""
    data = digits(split)
    order = torch.randperm(len(data), generator=Key(seed).on("cpu"))
    return data.floats(order), data.label[order] % classes


@torch.enable_grad()  # a check may ask for the model first, and checks run without gradients
def taught(
    net: nn.Module,
    seed: int = 0,
    train_ball: Ball | None = None,
    epochs: int = 8,
    classes: int = 10,
    lr: float = 3e-3,
) -> nn.Module:
    """By Adam, on images or (with a ball) on PGD-2's of them; in eval mode afterwards."""
    x, y = images("train", classes, seed)
    x = x.to(next(net.parameters()).dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    net.train()
    for epoch in range(epochs):
        for at in range(0, len(x) - 127, 128):
            part, label = x[at : at + 128], y[at : at + 128]
            if train_ball:
                rng = (Key(seed) / epoch / at).on("cpu")
                part = PGD(train_ball, 2, rel_step_size=0.5).maximise(
                    lambda x, y=label: cross_entropy(net(x), y), part, rng
                )
            optimizer.zero_grad()
            cross_entropy(net(part), label).backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


def linear(classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def mlp(dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 10))


def cnn(classes: int = 10, std: float = 0.5) -> nn.Module:
    return nn.Sequential(
        Normalize((0.5,), (std,)),
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, classes)),
    )


def resnet() -> nn.Module:
    return nn.Sequential(Normalize((0.5,), (0.5,)), ResNet(BasicBlock, (1, 1), 8, 8, 1), nn.Linear(16, 10))


class Transformer(nn.Module):
    """Sixteen patches of 2 x 2 pixels, one layer of attention, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 2, stride=2)
        self.places = nn.Parameter(0.1 * torch.randn(16, 32))
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.patches(x).flatten(2).mT + self.places).mean(1))


class Cosine(nn.Module):
    """Logits of bounded length: ten times the cosine to a direction for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = mlp()[:-1], nn.Parameter(torch.randn(10, 64))

    def forward(self, x: Tensor) -> Tensor:
        return 10 * normalize(self.body(x)) @ normalize(self.classes).mT


def lipschitz() -> nn.Module:
    """Every layer keeps lengths, so that no logit moves faster than the image: certified, and all but constant."""
    layers = [orthogonal(nn.Linear(64, 64)), orthogonal(nn.Linear(64, 10))]
    return nn.Sequential(nn.Flatten(), layers[0], nn.Softsign(), layers[1])


def two_routes(seed: int) -> Network:
    """Clean images through one route, adversarial ones through the other."""
    net = seeded(lambda: Network(Encoder(Normalize((0.5,), (0.5,)), cnn()[1:-1], 64), nn.Linear(64, 10)), Key(seed))
    with_routes(net.encoder, ("clean", "adv"))
    taught(Through(net, "clean"), seed)
    net.requires_grad_(True)
    taught(Through(net, "adv"), seed, Linf(0.1))
    return net


class Through(nn.Module):
    """A network's one route."""

    def __init__(self, net: Network, route: str) -> None:
        super().__init__()
        self.net, self.route = net, route

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.route)


def of(
    build: Callable[[], nn.Module], ball: Ball = Linf(0.1), classes: int = 10, **how
) -> Callable[[int], ModelUnderTest]:
    """The model that a seed makes."""

    def model(seed: int) -> ModelUnderTest:
        net = taught(seeded(build, Key(seed)), seed, classes=classes, **how).float()
        return model_of(net, ball, classes, seed)

    return model


def model_of(net: nn.Module, ball: Ball = Linf(0.1), classes: int = 10, seed: int = 0, n: int = 192) -> ModelUnderTest:
    x, y = images("test", classes, seed)
    return ModelUnderTest(net, x[:n], y[:n], ball, Key(seed), net)


def routed_patient(seed: int) -> ModelUnderTest:
    net, (x, y) = two_routes(seed), images("test", 10, seed)
    return ModelUnderTest(lambda x: net(x, "adv"), x[:192], y[:192], Linf(0.1), Key(seed), net, "adv")


SOUND: dict[str, Callable[[int], ModelUnderTest]] = {
    "linear": of(linear),
    "linear, l2": of(linear, L2(0.5)),
    "linear, two classes": of(lambda: linear(2), Linf(0.02), classes=2, epochs=20),
    "mlp": of(mlp),
    "mlp, overfitted": of(mlp, epochs=60),
    "mlp, robust, l2": of(mlp, L2(0.5), train_ball=L2(0.5)),
    "mlp, dropout": of(lambda: mlp(0.5)),
    "mlp, float64": of(lambda: mlp().double()),
    "cnn": of(cnn),
    "cnn, robust": of(cnn, train_ball=Linf(0.1)),
    "cnn, two classes, robust": of(lambda: cnn(2), train_ball=Linf(0.1), classes=2),
    "resnet": of(resnet),
    "transformer": of(Transformer),
    "cosine": of(Cosine),
    "certified": of(lipschitz, Linf(0.01)),
    "two routes": routed_patient,
}
