"""Measure the cost of reading: resident data or streams, with and without reading ahead.

    taskset -c 0 python experiments/benchmarks/streams.py

``fit`` trains an MLP 256-128-10 with Adam for one epoch of random data like MNIST (uint8 images
28 x 28) with batch size 128: from ``Batches``, from the same batches as a stream of arrays, from
``data.parquet_stream`` with 785 columns, and from grain by index and by its threads. Then a reader
that waits 2 ms per batch, as a disk would, is read ahead by ``fit``, or each chunk is read before
it is trained on. The smallest wall time of interleaved rounds counts.

Cost: one minute. Result (one core of a shared AMD EPYC, jax 0.10.2):

| source | ms per step | ratio |
|---|---|---|
| resident | 2.31 | 1.00 |
| arrays, a stream | 2.70 | 1.17 |
| Parquet | 11.24 | 4.86 |
| grain, by index | 5.98 | 2.59 |
| grain, two threads | 6.97 | 3.02 |
| slow, read ahead | 4.11 | 1.00 |
| slow, read and then trained on | 7.25 | 1.76 |
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    examples: int = 25_600
    size: int = 128
    """Batch size."""
    chunk: int = 50
    wait: float = 2e-3
    """Seconds per batch of the slow reader."""
    rounds: int = 5


TINY = {"examples": 16, "size": 4, "chunk": 2, "rounds": 1}


def main(config: Config) -> dict[str, float]:
    """Time all sources and print a markdown table.

    Returns:
        Milliseconds per step by source.
    """
    with tempfile.TemporaryDirectory() as folder:
        forms = trainings(config, Path(folder))
        for train in forms.values():
            train()
        found = dict.fromkeys(forms, float("inf"))
        for _ in range(config.rounds):
            for name, train in forms.items():
                start = time.perf_counter()
                train()
                ms = 1e3 * (time.perf_counter() - start) / (config.examples // config.size)
                found[name] = min(found[name], ms)
    print("| source | ms per step | ratio |\n|---|---|---|")
    for name, ms in found.items():
        base = found["slow, read ahead" if name.startswith("slow") else "resident"]
        print(f"| {name} | {ms:.2f} | {ms / base:.2f} |")
    return found


def trainings(config: Config, folder: Path) -> dict:
    """Return an epoch of training from each source."""
    import grain
    import jax

    from funcdl import data, train

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (config.examples, 784), dtype=np.uint8)
    y = rng.integers(0, 10, config.examples).astype(np.int32)
    size, steps = config.size, config.examples // config.size
    path = written(folder / "images.parquet", x, y)
    program, run = task(x, y, size)
    parts = [(x[i : i + size], y[i : i + size]) for i in range(0, config.examples, size)]
    pairs = grain.MapDataset.source(Pairs(x, y)).batch(size)
    threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)

    def slow(step):
        for part in parts[step:]:
            time.sleep(config.wait)
            yield part

    def fit(source, run=run, steps=steps):
        return train.fit(program, run, source, steps=steps, chunk=config.chunk)[0]

    def waiting():
        now = run
        for step in range(0, steps, config.chunk):
            stop = min(step + config.chunk, steps)
            chunk = list(zip(range(step, stop), slow(step)))
            now = fit(data.Stream(lambda _, chunk=chunk: (b for _, b in chunk)), now, stop)
        return now

    resident = data.Batches((x, y), size)
    sources = {
        "resident": resident,
        "arrays, a stream": data.Stream(lambda step: iter(parts[step:])),
        "Parquet": data.parquet_stream(path, size=size, transform=split),
        "grain, by index": data.from_grain(pairs),
        "grain, two threads": data.from_grain(pairs.to_iter_dataset(threads)),
        "slow, read ahead": data.Stream(slow),
    }
    block = jax.block_until_ready
    forms = {name: lambda source=source: block(fit(source)) for name, source in sources.items()}
    return forms | {"slow, read and then trained on": lambda: block(waiting())}


class Pairs:
    """Examples by index, as grain reads them."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def task(x, y, size: int) -> tuple:
    """Return a program for uint8 images, and a run."""
    import jax
    import jax.numpy as jnp
    import optax

    from funcdl import losses, nn, train

    model = nn.from_linen(nn.models.MLP((256, 128, 10)))
    objective = train.supervised(model, losses.softmax_cross_entropy)

    def loss(params, state, batch, key=None):
        return objective.loss(params, state, (batch[0].astype(jnp.float32) / 255, batch[1]), key)

    program = train.program(train.Objective(objective.init, loss), optax.adam(1e-3))
    return program, program.init(jax.random.key(0), (jnp.float32(x[:size]), y[:size]))


def written(path: Path, x, y) -> Path:
    """Write images and labels as columns of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    columns = {f"x{i}": x[:, i] for i in range(x.shape[1])} | {"y": y}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2048)
    return path


def split(rows):
    """Split the rows of a table into images and labels."""
    return rows[:, :-1].astype(np.uint8), rows[:, -1].astype(np.int32)


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Config))
