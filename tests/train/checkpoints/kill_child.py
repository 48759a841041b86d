"""A small training that saves every few steps and goes on from the newest checkpoint.

A folder after the word ``fit`` is trained by ``fit`` with its callbacks, which handle signals.

``python kill_child.py FOLDER`` trains once. ``python kill_child.py`` serves: it imports everything,
reads folders from stdin and forks a process for each, before any backend or thread exists, so that
a child costs a fork and a compilation instead of seconds of imports. Its last line per child is
``done PID STATUS``; where a child is can be read from the file FOLDER.phase.
"""

import contextlib
import errno
import importlib
import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as _orbax  # noqa: F401 (here, so that no child imports it)

from funcdl.train._checkpoints.save_restore import latest, restore, save

with contextlib.suppress(ImportError):  # jax would load it in every child, at the first compilation
    importlib.import_module("jaxlib.mlir.dialects.mhlo")

STEPS, CHUNK = 160, 20
OPTIMIZER = optax.adam(1e-2)


class Run(NamedTuple):
    params: dict
    opt_state: tuple
    step: jax.Array
    key: jax.Array


def init(key):
    shapes = {"w1": (16, 64), "w2": (64, 64), "w3": (64, 1)}
    params = {
        name: 0.1 * jnp.cos(jnp.arange(n * m).reshape(n, m) ** 2) for name, (n, m) in shapes.items()
    }
    return Run(params, OPTIMIZER.init(params), jnp.int32(0), key)


def loss(params, x, keep):
    h = jax.nn.relu(x @ params["w1"])
    h = jax.nn.relu(jnp.where(keep, h / 0.875, 0) @ params["w2"])
    return jnp.mean(((h @ params["w3"])[:, 0] - jnp.sin(x.sum(1))) ** 2)


def step(run, data):
    """Take one step; dropout and order are functions of the key and the step alone."""
    # one draw serves both, because compiling the generator is most of a child's life
    bits = jax.random.bits(jax.random.fold_in(run.key, run.step), (32, 65), "uint16")
    batch, keep = data[bits[:, 0] % len(data)], bits[:, 1:] >= 2**13
    grads = jax.grad(loss)(run.params, batch, keep)
    updates, opt_state = OPTIMIZER.update(grads, run.opt_state)
    return Run(optax.apply_updates(run.params, updates), opt_state, run.step + 1, run.key)


@jax.jit
def chunk(run, data):
    return jax.lax.scan(lambda run, _: (step(run, data), None), run, length=CHUNK)[0]


def train(folder):
    phase = os.open(f"{folder}.phase", os.O_WRONLY | os.O_CREAT)

    def tell(letter):
        os.pwrite(phase, letter, 0)

    tell(b"s")  # start-up: backend, compilation, restore
    key = jax.random.wrap_key_data(np.array([0, 1], np.uint32))  # jax.random.key compiles
    like = jax.eval_shape(init, key)
    run = restore(folder, like) if latest(folder) is not None else jax.jit(init)(key)
    data = np.random.default_rng(1).normal(size=(512, 16)).astype(np.float32)
    while int(run.step) < STEPS:
        run = jax.block_until_ready(chunk(run, data))
        tell(b"w")  # writing
        save(folder, run)
        tell(b"t")  # training
    tell(b"d")
    final = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(run.params)])
    Path(f"{folder}.final").write_bytes(final.tobytes())


class Same(NamedTuple):
    """The whole data as the batch of every step."""

    x: jax.Array

    def at(self, step):
        del step
        return self.x


def whole(run):
    from funcdl import train

    return train.Run(run.params, {}, run.opt_state, {}, run.step, run.key)


def fault(kind, amount):
    """From now on the disk is full after so many bytes of a file, or the folders are read-only."""
    if kind == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(amount), int(amount)))
    left = int(amount) if kind == "read-only" else sys.maxsize

    def guarded(call):
        def refuse(path, *args, **options):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return call(path, *args, **options)

        return refuse

    if kind == "read-only":
        for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, guarded(getattr(os, name)))


def train_by_fit(folder, kind="", at=0, amount=0):
    """Train by ``fit``; a fault of the disk, if any, begins at a step."""
    from funcdl import train

    phase = os.open(f"{folder}.phase", os.O_WRONLY | os.O_CREAT)
    os.pwrite(phase, b"s", 0)
    key = jax.random.wrap_key_data(np.array([0, 1], np.uint32))
    data = np.random.default_rng(1).normal(size=(512, 16)).astype(np.float32)
    one = lambda run, batch: (whole(step(run, batch)), {"loss": jnp.float32(0)})
    program = train.Program(lambda key, batch, hyper=None: whole(init(key)), one)
    like = jax.eval_shape(program.init, key, data)
    start = latest(folder) is None
    run = jax.jit(lambda key: program.init(key, data))(key) if start else restore(folder, like)
    batches = Same(jnp.asarray(data))

    def tell(run, metrics):
        os.pwrite(phase, b"t", 0)
        if kind and metrics["step"] >= int(at):
            fault(kind, amount)

    # the fault comes first, so that the save at its step meets it
    callbacks = [tell, train.metrics_file(f"{folder}.jsonl"), train.checkpoint(folder, every=15)]
    run, _ = train.fit(program, run, batches, steps=STEPS, chunk=CHUNK, callbacks=callbacks)
    os.pwrite(phase, b"d", 0)
    final = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(run.params)])
    Path(f"{folder}.final").write_bytes(final.tobytes())


def serve():
    for line in sys.stdin:
        assert len(os.listdir("/proc/self/task")) == 1, "fork needs a process with one thread"
        child = os.fork()
        if child == 0:
            *words, folder = line.split()
            status, other = 1, None
            if words[:1] == ["two"]:  # two of them in one folder, one a little later
                other, later, words = os.fork(), float(words[1]), ["fit"]
                time.sleep(later * (other == 0))
            try:
                train_by_fit(folder, *words[1:]) if words else train(folder)
                status = 0
            except KeyboardInterrupt:
                status = 130
            except SystemExit as stop:
                status = stop.code
            finally:
                if other:
                    status += 2 * os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])
                os._exit(status)
        print("pid", child, flush=True)
        print("done", *os.waitpid(child, 0), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        serve()
    else:
        (train_by_fit if sys.argv[1] == "fit" else train)(sys.argv[-1])
