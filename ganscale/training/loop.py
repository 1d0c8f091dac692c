"""The training loop: feeds batches and controls to the step and yields a `Tick` whenever an interval ends."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ganscale.parallel.clock import RankTimes
from ganscale.parallel.phase import PHASE
from ganscale.training.augment import next_p
from ganscale.training.auto import measure_lead, next_gamma
from ganscale.training.build import Experiment
from ganscale.training.range_test import find_rate
from ganscale.training.statistics import Window, add_signs
from ganscale.training.transactions import Transactions

QUIET = frozenset({"averages"})
"""Intervals whose ticks only save: they have no metrics, and the window of statistics continues over them."""


@dataclass(frozen=True)
class Tick:
    """A pause of the loop, reached by all replicas alike.

    Attributes:
        images: images so far.
        iteration: iterations so far.
        due: names of the intervals that ended; "end" when the run is complete, "stop" when a stop was requested.
        metrics: numbers since the last tick that has some, the same on all replicas except times.
        histograms: counts of D's logits in the last iteration, for `real` and `fake`, by bin of
            `statistics.LOGIT_EDGES`.
        times: of all ranks, since the last tick that has some; the same on all replicas.
    """

    images: int
    iteration: int
    due: frozenset[str]
    metrics: dict[str, float]
    histograms: dict[str, list[float]] = field(default_factory=dict)
    times: tuple[RankTimes, ...] = ()

    def is_due(self, *names: str) -> bool:
        """Whether one of these intervals ended.

        Args:
            *names: of intervals.
        """
        return not self.due.isdisjoint(names)

    @property
    def is_final(self) -> bool:
        """Whether the run is complete."""
        return "end" in self.due

    @property
    def is_stop(self) -> bool:
        """Whether a stop was requested: this is the attempt's last tick."""
        return "stop" in self.due

    @property
    def is_stop_only(self) -> bool:
        """Whether the tick exists only because a stop was requested, perhaps where an interval of `QUIET` ends."""
        return self.is_stop and self.due <= QUIET | {"stop"}

    @property
    def is_quiet(self) -> bool:
        """Whether only an interval of `QUIET` ended: there are no metrics, and nothing is decided."""
        return self.due == QUIET


def due(intervals: Mapping[str, int], before: int, after: int, until: int) -> frozenset[str]:
    """Names of the intervals that end in an iteration.

    Args:
        intervals: lengths in images, by name; one ends where a multiple of its length lies in (before, after].
        before: images before the iteration.
        after: images after it.
        until: length of the run in images; "end" is due from there on.
    """
    names = {name for name, every in intervals.items() if after // every > before // every}
    return frozenset(names | {"end"}) if after >= until else frozenset(names)


def train(
    experiment: Experiment,
    *,
    intervals: Mapping[str, int],
    until: int,
    stop_signal: Callable[[], bool] = lambda: False,
    transactions: Transactions | None = None,
) -> Iterator[Tick]:
    """Train the experiment's state, in place, and yield a tick whenever an interval ends.

    The caller does everything else between two ticks: saving, samples, tracking. Losses are means since the last tick
    that has metrics; logit statistics, gradient norms and diversity are those of the tick's own iteration. The caller
    may restore an earlier state between two ticks; the loop continues from it.

    Args:
        experiment: the run's objects, at any state.
        intervals: lengths in images, by name.
        until: length of the run in images.
        stop_signal: called before each iteration; whether to yield a tick after it, at which the caller may stop.
        transactions: copy the state every few iterations, and after what the caller does at a tick, for a run that
            outlives its workers; None for none.
    """
    state, sampler, schedule = experiment.state, experiment.sampler, experiment.schedule
    rule, gamma_rule = schedule.adaptive, schedule.gamma_rule
    window = Window()
    signs: list[Tensor] = []
    if transactions:
        transactions.resume(window)
    while state.images < until:
        if transactions:
            transactions.begin(state, window)
        if experiment.config.optim.auto and state.rate is None:
            state.rate = find_rate(experiment)
            window = Window()  # its clock starts here
        after = state.images + sampler.images_per_iteration
        names = due(intervals, state.images, after, until)
        if stop_signal():
            names |= {"stop"}
        measures = not names <= QUIET
        adapts = rule is not None and (state.iteration + 1) % rule.every == 0
        balances = gamma_rule is not None and state.iteration % gamma_rule.every == 0
        PHASE.name = "reading data"
        batches = sampler.batches(state.images)
        if rule is None:
            state.augment_p = schedule.augment_p(state.images)
        controls = schedule.controls(
            state.images,
            state.rollbacks,
            augment_p=state.augment_p,
            gamma=state.gamma,
            rate=state.rate,
            details=measures or balances,
        )
        statistics = experiment.iterate(batches, controls)
        if rule is not None:
            signs.append(statistics.sums["signs"])
            if adapts or measures or transactions:
                state.signs = add_signs(state.signs, signs, experiment.total)
                signs = []
            if adapts:
                mean, passed = state.signs[0] / state.signs[1], rule.every * sampler.images_per_iteration
                state.augment_p, state.signs = next_p(state.augment_p, mean, passed, rule), (0.0, 0.0)
        if gamma_rule is not None and balances:
            found = measure_lead(statistics, gamma_rule.guessing_loss, experiment.total)
            if found is not None:
                passed = schedule.images_since_change(state.images)
                state.gamma = next_gamma(state.gamma, found, passed, gamma_rule)
        state.ema.update(sampler.images_per_iteration, schedule.half_life(after))
        state.images = after
        state.iteration += 1
        state.averages.update(state.iteration)
        PHASE.name = "between iterations"
        window.add(statistics)
        if measures:
            seen = experiment.probe(batches, controls)
            statistics = statistics._replace(sums=statistics.sums | seen)
            metrics, histograms, times = window.close(
                statistics, sampler.images_per_iteration, experiment.reference, experiment.total
            )
            yield Tick(after, state.iteration, names, metrics, histograms, times)
            window = Window()
        elif names:
            with window.paused():
                yield Tick(after, state.iteration, names, {})
        if names and transactions:
            transactions.finish_tick()
