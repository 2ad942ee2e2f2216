"""Problems that fit on a page: eight mini-batches of features, a head, and everything by plain autograd."""

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from unshaken.base.rng import Key
from unshaken.coreset.gradients import Gradients, Matrices
from unshaken.coreset.objective import SelectionObjective
from unshaken.losses.divergence import ROWS, representational_divergence
from unshaken.nets.network import seeded


class Toy(SelectionObjective):
    """A classifier of features, trained on features that are attacked by one step (SAT), and validated on others."""

    def __init__(self, seed: int, sizes: tuple[int, ...] = (6,) * 8, layers: int = 2, classes: int = 4) -> None:
        def build() -> torch.nn.Module:
            last = torch.nn.Linear(5, classes)
            return torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.ReLU(), last) if layers == 2 else last

        key, images = Key(seed) / "toy", sum(sizes)
        rng = key.on("cpu")
        self.head = seeded(build, key)
        centre = torch.randn(classes, 5, generator=rng)
        self.y = torch.randint(classes, (images,), generator=rng)
        self.x = centre[self.y] + torch.randn(images, 5, generator=rng)
        self.held = centre[torch.arange(3 * classes) % classes] + torch.randn(3 * classes, 5, generator=rng)
        order = torch.randperm(images, generator=rng)
        self.batches = order.split(list(sizes))
        self.theta = {name: p.detach().clone() for name, p in self.head.named_parameters()}
        self.attacks = 0

    def z(self, x: Tensor, theta: dict[str, Tensor]) -> Tensor:
        return functional_call(self.head, theta, (x,))

    def loss(self, theta: dict[str, Tensor], images: Tensor) -> Tensor:
        x = self.x[images].clone().requires_grad_()
        (grad,) = torch.autograd.grad(cross_entropy(self.z(x, self.theta), self.y[images]), x)
        return cross_entropy(self.z((x + 0.3 * grad.sign()).detach(), theta), self.y[images], reduction="none")

    def q(self, batch: Tensor, images: Tensor | None = None) -> dict[str, Tensor]:
        """By definition; of some of the batch's images, their part in it."""
        theta = {name: value.clone().requires_grad_() for name, value in self.theta.items()}
        loss = self.loss(theta, batch if images is None else images).sum() / len(batch)
        return dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))

    def gradients(self, batches, granularity):
        chosen = [self.batches[b] for b in batches]
        each = [(batch, one) for batch in chosen for one in batch.split(1)]
        items = each if granularity == "sample" else [(batch, batch) for batch in chosen]
        q = [self.q(*item) for item in items]
        names = [name.removesuffix("weight").removesuffix(".") for name in self.theta if name.endswith("weight")]

        def matrix(one: dict[str, Tensor], name: str) -> Tensor:
            prefix = f"{name}." if name else ""
            return torch.cat([one[prefix + "weight"], one[prefix + "bias"][:, None]], 1)

        layers = {name: Matrices(torch.stack([matrix(one, name) for one in q])) for name in names}
        sizes = tuple(len(images) for _, images in items)
        return Gradients(torch.cat(chosen), sizes, layers, frozenset(names))

    def losses(self):
        return torch.stack([self.loss(self.theta, batch).mean() for batch in self.batches])

    def input_gradients(self):
        """By definition, one image at a time: of the loss at x̃ by x̃, which the attack's step is no part of."""
        found = []
        for image in self.index:
            x = self.x[image : image + 1].clone().requires_grad_()
            (grad,) = torch.autograd.grad(cross_entropy(self.z(x, self.theta), self.y[image : image + 1]), x)
            x_adv = (x + 0.3 * grad.sign()).detach().requires_grad_()
            (grad,) = torch.autograd.grad(cross_entropy(self.z(x_adv, self.theta), self.y[image : image + 1]), x_adv)
            found.append(grad.norm())
        return torch.stack(found)

    def features(self):
        return self.x[self.index]

    def away(self, x: Tensor, theta: dict[str, Tensor], distance: str) -> Tensor:
        """x̃: one step, from a fixed place beside x."""
        fixed = {name: value.detach() for name, value in theta.items()}
        x_adv = (x + 0.1 * torch.sin(7 * x)).requires_grad_()
        with torch.enable_grad():
            d = representational_divergence(self.z(x_adv, fixed), self.z(x, fixed), distance)
            (grad,) = torch.autograd.grad(d, x_adv)
        return (x_adv + 0.5 * grad.sign()).detach()

    def distances(self, distance, attack):
        x = self.features()
        x_adv = self.away(x, self.theta, distance)
        return ROWS[distance](self.z(x_adv, self.theta), self.z(x, self.theta)).detach()

    def validation(self, theta, distance, attack):
        self.attacks += 1
        x_adv = self.away(self.held, theta, distance)
        return lambda theta: representational_divergence(self.z(x_adv, theta), self.z(self.held, theta), distance)
