"""The benchmarks' computations in PyTorch and its libraries; empty if these are missing."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable

import numpy as np


def has(*modules: str) -> bool:
    """Tell whether modules are installed."""
    return all(importlib.util.find_spec(name) for name in modules)


def mlp(params, batch) -> tuple:
    """Return the tanh net in PyTorch with these weights, and the batch."""
    import torch

    layers = []
    for w, b in params:
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.asarray(w).T.copy()))
            layer.bias.copy_(torch.tensor(np.asarray(b)[0].copy()))
        layers += [layer, torch.nn.Tanh()]
    x, y = (torch.tensor(np.asarray(a).copy()) for a in batch)
    return torch.nn.Sequential(*layers[:-1]), x, y.long()


def product_of(net, value) -> Callable:
    """Return the Hessian-vector product of a loss in PyTorch, which keeps the gradient's graph."""
    import torch

    params = list(net.parameters())
    gradient = torch.autograd.grad(value, params, create_graph=True)
    shapes = [p.numel() for p in params]

    def product(v):
        parts = torch.split(torch.from_numpy(np.asarray(v, np.float32).reshape(-1)), shapes)
        parts = [a.reshape(p.shape) for a, p in zip(parts, params)]
        found = torch.autograd.grad(gradient, params, parts, retain_graph=True)
        return torch.cat([a.reshape(-1) for a in found]).numpy()

    return product


def convolutional(x: np.ndarray, y: np.ndarray, count: int) -> dict:
    """Return gradient, Hessian product and Σg² of the CNN, and the kernel of its first examples."""
    if not has("torch"):
        return {}
    import torch

    torch.set_num_threads(1)
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )
    x, y = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)
    criterion, params = nn.CrossEntropyLoss(), list(net.parameters())
    vector = [p.detach().clone() for p in params]
    product = product_of(net, criterion(net(x), y))
    flat = torch.cat([v.reshape(-1) for v in vector]).numpy()

    def gradient():
        torch.autograd.grad(criterion(net(x), y), params)
        return ""

    def twice():
        g = torch.autograd.grad(criterion(net(x), y), params, create_graph=True)
        torch.autograd.grad(g, params, vector)
        return ""

    def kernel():
        named = {k: p.detach() for k, p in net.named_parameters()}
        one = lambda named, x: torch.func.functional_call(net, named, (x[None],))[0]
        rows = torch.func.vmap(torch.func.jacrev(one), (None, 0))(named, x[:count])
        flat = torch.cat([r.reshape(count * 10, -1) for r in rows.values()], dim=1)
        _ = flat @ flat.T
        return ""

    peers = {
        "gradient": {"torch": gradient},
        "Hessian times vector": {
            "torch, backward twice": twice,
            "torch, its graph kept": lambda: (product(flat), "")[1],
        },
        f"NTK of {count}": {"torch.func": kernel},
    }
    if has("hessian_eigenthings"):
        import hessian_eigenthings as he

        operator = he.HessianOperator(net, [(x, y)], he.supervised_loss(criterion))
        v = torch.tensor(flat)
        peers["Hessian times vector"]["hessian-eigenthings"] = lambda: (operator.matvec(v), "")[1]
    if has("backpack"):
        import copy

        import backpack

        extended = backpack.extend(copy.deepcopy(net))
        lossfunc = backpack.extend(nn.CrossEntropyLoss())

        def squares():
            extended.zero_grad()
            with backpack.backpack(backpack.extensions.SumGradSquared()):
                lossfunc(extended(x), y).backward()
            return ""

        peers["Σg²"] = {"BackPACK": squares}
    return peers


def eigenpairs(params, batch, k: int, tol: float) -> dict[str, Callable]:
    """Return the peers' computations of the largest eigenpairs of the tanh net's Hessian."""
    if not has("torch"):
        return {}
    import torch
    from scipy.sparse.linalg import LinearOperator, eigsh

    torch.set_num_threads(1)
    net, x, y = mlp(params, batch)
    size = sum(p.numel() for p in net.parameters())
    start = np.random.default_rng(7).normal(size=size).astype(np.float32)

    def by_scipy(product):
        operator = LinearOperator((size, size), matvec=product, dtype=np.float32)
        return eigsh(operator, k, which="LM", tol=tol, v0=start)

    def by_hand():
        by_scipy(product_of(net, torch.nn.CrossEntropyLoss()(net(x), y)))
        return ""

    forms = {"torch and scipy by hand": by_hand}
    if has("hessian_eigenthings"):
        import hessian_eigenthings as he

        criterion = he.supervised_loss(torch.nn.CrossEntropyLoss())

        def eigenthings():
            found = he.lanczos(
                he.HessianOperator(net, [(x, y)], criterion), k=k, max_iter=4 * k, tol=tol, seed=7
            )
            return (
                ""
                if bool((found.residuals <= tol * found.eigenvalues.abs()).all())
                else ("not converged")
            )

        forms["hessian-eigenthings"] = eigenthings
    if has("curvlinops"):
        import curvlinops

        def linops():
            operator = curvlinops.HessianLinearOperator(
                net, torch.nn.CrossEntropyLoss(), list(net.parameters()), [(x, y)]
            )
            by_scipy(lambda v: operator.to_scipy() @ v.reshape(-1))
            return ""

        forms["curvlinops"] = linops
    return forms


def densities(params, batch, probes: int, steps: int) -> dict[str, Callable]:
    """Return the peer's estimate of the spectral density; each probe is a run of Lanczos."""
    if not has("torch", "pyhessian"):
        return {}
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyhessian

    def eig(matrix, eigenvectors):
        del eigenvectors
        values, vectors = torch.linalg.eigh(matrix)
        return values[:, None], vectors

    torch.eig = eig  # removed in torch 1.13
    net, x, y = mlp(params, batch)

    def theirs():
        with contextlib.redirect_stdout(io.StringIO()):
            module = pyhessian.hessian(net, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False)
            module.density(iter=steps, n_v=probes)
        return ""

    return {"PyHessian": theirs}
