"""The progress bar of a training."""

from collections.abc import Callable, Sequence
from typing import Any

from funcdl.train._loop.callbacks import TIMING
from funcdl.train._loop.fit import Callback
from funcdl.train._program import Run


def progress(steps: int) -> Callback:
    """Show a progress bar with the loss, the metrics and the time per step.

    Without a terminal, a line is printed every 10 %.

    Args:
        steps: The value of ``run.step`` at the end, as passed to ``fit``.

    Returns:
        A callback that writes to stderr and respects ``NO_COLOR``.

    Raises:
        ImportError: If rich is missing (extra ``experiments``).
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    bar = Progress("train ", *columns, console=console, disable=not console.is_terminal)
    return _Bar(bar, steps)


class _Bar:
    name = "progress"

    def __init__(self, bar: Any, steps: int):
        self.bar, self.steps = bar, steps
        self.task = bar.add_task("", total=steps)
        self.before = self.tenths = 0

    def begin(self, run: Run, _: Sequence[Callable]) -> None:
        """Count from the step at which the run starts."""
        self.before = int(run.step)
        self.tenths = self.before * 10 // self.steps
        self.bar.reset(self.task, total=self.steps, completed=self.before, description="")

    def __call__(self, _: Any, metrics: dict) -> None:
        step, console = metrics["step"], self.bar.console
        ms = 1e3 * metrics["seconds"] / max(1, step - self.before)
        values = "  ".join(f"{k} {v:.4g}" for k, v in metrics.items() if k not in TIMING)
        text = f"{values}  {ms:.2f} ms/step"
        tenths = step * 10 // self.steps
        if console.is_terminal:
            self.bar.start()
            self.bar.update(self.task, completed=step, description=text)
        elif tenths > self.tenths:
            console.print(f"train  {step}/{self.steps}  {text}", highlight=False)
        self.before, self.tenths = step, tenths

    def end(self, _: Run | None) -> None:
        """Give the terminal back, with its cursor, however training ended."""
        self.bar.stop()
