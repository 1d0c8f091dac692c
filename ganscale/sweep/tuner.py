"""A sweep on a Ray cluster: Ray Tune runs the trials, the sweep's folder remembers them.

The same command goes on with a sweep: what is in its folder is never trained again. That is kept in files of our own
and not in Tune's (`Tuner.restore`), as those die with a half-written snapshot, start interrupted trials anew, and count
iterations where trials count images. A trial that goes on first tells its recorded rows again, so that the scheduler
knows what it knew.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune import TuneError
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining

from ganscale.config import Config, ConfigError
from ganscale.config.register import ADDED
from ganscale.launch.cluster import connected, nodes
from ganscale.launch.placement import NodeResources, concurrent_trials
from ganscale.launch.placement_request import PlacementRequest, wait_for_placement, waiting
from ganscale.storage.run_dir import RunDir, WriterLock, locate
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.folder import SweepFolder, prepare, resolved
from ganscale.sweep.optuna_sampler import OptunaSampler
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.progress import ProgressCallback, TrialStatusCallback
from ganscale.sweep.record import read_end
from ganscale.sweep.report import winner, write_report
from ganscale.sweep.schedulers import make_scheduler
from ganscale.sweep.score import objectives
from ganscale.sweep.searcher import ReplayableSearcher
from ganscale.sweep.table import Entry, read_entries, read_entry
from ganscale.sweep.trainable import SCORE, Job, TrialActor
from ganscale.sweep.wandb import publish

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the sweep's folder has it all
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops the command; the same command goes on
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # never restored from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
RETRIES = 2
"""Times that a trial whose process died goes on from its last row; then it counts as failed."""


class SearchError(RuntimeError):
    """The search ended before its end; the same command goes on."""


def sweep_folder(plan: SweepPlan) -> SweepFolder:
    """Where the sweep lives.

    Raises:
        ConfigError: the place cannot be found.
    """
    settings = plan.sweep.sweep
    run = plan.config.run.model_copy(update={"dir": settings.dir, "name": settings.name})
    return SweepFolder(locate(plan.config.model_copy(update={"run": run})).path)


def search_on_ray(plan: SweepPlan, show: Callable[[str], None]) -> str:
    """Run all trials of a sweep that are not done yet, and then the winner on fresh seeds.

    Args:
        plan: the sweep.
        show: takes texts for the user.

    Returns:
        The results as a text; all of them lie in the sweep's folder.

    Raises:
        ConfigError: the cluster can never hold a trial, or another sweep lives in the folder.
        SearchError: the cluster was lost.
    """
    folder = sweep_folder(plan)
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(RunDir(folder.path), patience=30.0, info=show)
    try:
        prepare(folder, plan.sweep, plan.base)
        with connected(_cluster(plan), dashboard=plan.sweep.sweep.workers > 1) as joined:
            wait = plan.config.cluster.node_wait if joined else 0.0
            search = wait_for_placement(
                lambda: _Search(plan, folder, nodes(), show, grows=wait > 0),
                seconds=wait,
                ask=(lambda error: _ask(plan, error, show)) if wait else None,
            )
            search.run()
            best = winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
            if best and plan.sweep.sweep.confirm_seeds and not search.open_trials():
                search.confirm(best)
        text = write_report(plan, folder)
        publish(plan, folder, show)
        return text
    except (RayError, ConnectionError, TuneError) as error:
        raise SearchError(f"Ray gave up: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        lock.release()


def _cluster(plan: SweepPlan) -> Config:
    """What a cluster of our own must hold."""
    settings = plan.sweep.sweep
    cluster = {"num_workers": settings.workers * _asked_at_once(settings), "cpus_per_worker": settings.cpus_per_worker}
    return plan.config.model_copy(update={"cluster": plan.config.cluster.model_copy(update=cluster)})


class _Search:
    """One command's part of a sweep, on a connected cluster."""

    def __init__(
        self,
        plan: SweepPlan,
        folder: SweepFolder,
        machines: list[NodeResources],
        show: Callable[[str], None],
        *,
        grows: bool = False,
    ) -> None:
        self._plan, self._folder, self._show = plan, folder, show
        settings = plan.sweep.sweep
        self.use_gpu = _use_gpu(plan.config, machines)
        self._at_once = concurrent_trials(settings, machines, use_gpu=self.use_gpu, grows=grows)
        hours = settings.budget_hours
        self._until = time.monotonic() + hours * 3600 if hours else math.inf

    def open_trials(self) -> list[int]:
        """Numbers of the configurations that have not ended."""
        folders = ((n, self._folder.trials / f"{n:04d}") for n in range(len(self._plan.sampler)))
        return [n for n, folder in folders if not read_end(folder)[0]]

    def run(self) -> None:
        """Run the trials that are not done."""
        settings, trials = self._plan.sweep.sweep, self._folder.trials
        total = len(self._plan.sampler)
        open_ones = self.open_trials()
        self._show(
            f"{total} configurations x {settings.seeds} seeds, {total - len(open_ones)} done, {self._at_once} at a time"
        )
        if not open_ones:
            return
        learns = settings.scheduler in ("asha", "median")
        numbers = list(range(total)) if learns else open_ones
        searcher = self._searcher(numbers)
        board = ProgressCallback(self._plan, trials, self._show)
        scheduler = make_scheduler(
            settings, self._plan.space, images=self._plan.config.train.images, every=self._plan.config.eval.every
        )
        self._tune(self._job(trials, self._plan.seeds), searcher, board, scheduler)

        left = len(self.open_trials())
        if left:
            self._show(f"{left} configurations have not ended; the same command goes on with them")

    def _searcher(self, numbers: Sequence[int]) -> ReplayableSearcher:
        """What to try: fixed draws, or what Optuna learned from the trials that have ended."""
        trials, settings = self._folder.trials, self._plan.sweep.sweep
        if settings.search != "optuna":
            return ReplayableSearcher(numbers, self._plan.sampler.__getitem__, trials, until=self._until)
        learner = OptunaSampler(self._plan.space, seed=settings.seed, num_objectives=len(self._plan.metrics))

        def tell(number: int) -> None:
            entry = read_entry(trials / f"{number:04d}", self._plan.metrics, settings)
            if entry:
                several = objectives(entry.standing, self._plan.metrics)
                learner.tell(number, entry.drawn, several if len(several) > 1 else [entry.standing.score])

        for number in range(len(self._plan.sampler)):
            if read_end(trials / f"{number:04d}")[0]:
                tell(number)
        return ReplayableSearcher(numbers, learner.ask, trials, until=self._until, told=tell)

    def confirm(self, best: Entry) -> None:
        """Run the winner on fresh seeds, each a trial of its own."""
        trials, seeds = self._folder.confirm / f"{best.index:04d}", self._plan.fresh_seeds
        numbers = [n for n in range(len(seeds)) if not read_end(trials / f"{n:04d}")[0]]
        if numbers:
            self._show(f"trial {best.index:04d} is the best: running it on {len(seeds)} fresh seeds")
            searcher = ReplayableSearcher(numbers, lambda _: dict(best.drawn), trials, until=self._until)
            job = self._job(trials, seeds)._replace(one_seed_each=True, from_end=False)
            self._tune(job, searcher, TrialStatusCallback(trials), FIFOScheduler())

    def _job(self, trials: Path, seeds: Sequence[int]) -> Job:
        raw = resolved(self._plan.sweep, {})
        return Job(
            sweep={**raw, "base": self._plan.sweep.base},
            base=self._plan.base,
            folder=str(trials),
            metrics=self._plan.metrics,
            seeds=tuple(seeds),
            use_gpu=self.use_gpu,
            from_end=self._plan.sweep.sweep.scheduler == "pbt",
            one_seed_each=False,
            keep=0,
            storage=str(self._folder.path / ".ray"),
            extension=ADDED,
        )

    def _tune(self, job: Job, searcher: ReplayableSearcher, notes: TrialStatusCallback, scheduler: Any) -> None:
        """Let Ray Tune run the trials."""
        os.environ.update(_ENVIRONMENT)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses its own files of results
        settings = self._plan.sweep.sweep
        resources: dict[str, float] = {"CPU": 0, "memory": 1e6}  # a group's workers reserve theirs (nothing is refused)
        if settings.workers == 1:
            resources = _worker_resources(settings, use_gpu=self.use_gpu)
        trainable = tune.with_resources(tune.with_parameters(TrialActor, job=job), resources)
        search: dict[str, Any] = {
            "search_alg": searcher,
            "num_samples": len(searcher.numbers),
            "max_concurrent_trials": self._at_once,
        }
        space: dict[str, Any] = {}
        if isinstance(scheduler, PopulationBasedTraining):  # it refuses searchers, and its members take turns
            search, space = (
                {},
                {"index": tune.grid_search(searcher.numbers), "drawn": tune.sample_from(searcher.drawn)},
            )
        tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                **search,
                scheduler=scheduler,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"{trial.config['index']:04d}",
                trial_dirname_creator=lambda trial: f"{trial.config['index']:04d}",
            ),
            run_config=tune.RunConfig(
                name=f"{time.time_ns()}",
                storage_path=str(self._folder.path / ".ray"),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[notes],
                verbose=0,
            ),
        ).fit()


def _ask(plan: SweepPlan, error: ConfigError, show: Callable[[str], None]) -> PlacementRequest:
    """Ask for room for as many trials as may run at a time."""
    settings = plan.sweep.sweep
    show(waiting(error, plan.config.cluster.node_wait))
    each = _worker_resources(settings, use_gpu=plan.config.train.device == "cuda")
    return PlacementRequest(each, settings.workers * _asked_at_once(settings))


def _worker_resources(settings: SweepSettings, *, use_gpu: bool) -> dict[str, float]:
    """What one worker of a trial takes, by Ray's names."""
    cpus: dict[str, float] = {"CPU": settings.cpus_per_worker}
    return cpus | ({"GPU": settings.gpus_per_worker} if use_gpu else {})


def _asked_at_once(settings: SweepSettings) -> int:
    """Trials at a time that there must be room for before anything of the cluster is known."""
    return 1 if settings.max_concurrent == "auto" else settings.max_concurrent


def _use_gpu(config: Config, machines: Sequence[NodeResources]) -> bool:
    gpus = sum(node.gpus for node in machines)
    if config.train.device == "cuda" and not gpus:
        raise ConfigError(
            "the cluster has no GPU", key="train.device", value="cuda", remedy="use train.device=auto or cpu"
        )
    return config.train.device != "cpu" and gpus > 0
