"""The driver of a sweep: Ray Tune runs the trials, the sweep's folder records them.

The same command resumes a sweep: nothing in its folder is trained again. The state is kept in our own files instead of
Tune's (`Tuner.restore`), which a half-written snapshot breaks, which restart interrupted trials, and which count
iterations where trials count images. A resumed trial reports its recorded rows first, which restores the scheduler.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune import ResultGrid, TuneError
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining

from ganscale.config import Config, ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.config.register import ADDED
from ganscale.config.schedules import average_warning
from ganscale.launch.cluster import connected, nodes
from ganscale.launch.compat import root_cause
from ganscale.launch.elastic import PlacementRequest, wait_for_placement, waiting_message
from ganscale.launch.placement import NodeResources, count_gpus, describe
from ganscale.storage.lease import Fence, Lease, acquire
from ganscale.storage.run_dir import locate_in
from ganscale.storage.store import BucketStore, Place, StorePath, in_parallel, remove
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.filesystem import file_system
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.progress import ProgressCallback, TrialStatusCallback
from ganscale.sweep.report import winner, write_report
from ganscale.sweep.results import Entry, SweepFolder, prepare, read_end, read_entries, read_entry, resolved, title
from ganscale.sweep.sampler import OptunaSampler
from ganscale.sweep.schedulers import make_scheduler
from ganscale.sweep.score import objectives
from ganscale.sweep.searcher import ReplayableSearcher
from ganscale.sweep.trainable import SCORE, Job, TrialActor
from ganscale.sweep.trial import is_lost
from ganscale.sweep.wandb import publish

_logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV and TensorBoard: the sweep's folder holds the results
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C stops the command; the same command resumes
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # never restored from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
PATIENCE = 30.0
"""Seconds to wait for another driver to end: the processes of a killed one need a moment."""
RETRIES = 2
"""How often a trial whose process died resumes from its last row before it counts as failed."""


class SearchError(ExecutionError):
    """The search stopped before its end; the same command resumes it."""


def sweep_folder(plan: SweepPlan) -> SweepFolder:
    """The folder of a sweep, or its place in a bucket.

    Args:
        plan: The sweep.

    Raises:
        ConfigError: The location is invalid.
    """
    return SweepFolder(locate_in(plan.sweep.sweep.dir, plan.sweep.sweep.name, key="sweep.dir"))


def search_on_ray(plan: SweepPlan) -> tuple[str, ResultGrid | None]:
    """Run all open trials of a sweep, then the winner on fresh seeds.

    Args:
        plan: The sweep.

    Returns:
        A summary of the results, which lie in the sweep's folder, and Ray Tune's own results of the trials that this
        call ran; None if there were none to run.

    Raises:
        ConfigError: The cluster can never hold a trial, the folder holds another sweep or cannot be used, or another
            process writes there.
        SearchError: Ray failed, or trials could not write to the bucket.
        LeaseLostError: Another process has taken the sweep over.
        OSError: The storage fails.
    """
    folder, settings = sweep_folder(plan), plan.sweep.sweep
    if isinstance(folder.root, StorePath) and isinstance(folder.root.store, BucketStore):
        folder.root.store.check("sweep.dir")
    folder.path.mkdir(parents=True, exist_ok=True)
    lease = acquire(folder.files, patience=PATIENCE, info=_logger.info, section="sweep")
    try:
        lease.claim()
        folder.files.write_as(lease.confirm, periodic=False)
        prepare(folder, plan.sweep, plan.base)
        remove(folder.root / ".ray")  # of earlier attempts, which no later one reads
        if warning := average_warning(plan.config):
            _logger.info(warning)
        with connected(_local_cluster(plan), dashboard=settings.workers > 1) as joined:
            wait = plan.config.cluster.node_wait if joined else 0.0
            search = wait_for_placement(
                lambda: _Search(plan, folder, lease, nodes(), autoscales=wait > 0),
                seconds=wait,
                request=(lambda error: _request(plan, error)) if wait else None,
            )
            results = search.run()
            best = winner(read_entries(folder.trials, plan.metrics, settings))
            if best and settings.confirm_seeds and not search.open_trials():
                search.confirm(best)
        lease.confirm()
        summary = write_report(plan, folder)
        publish(plan, folder, lease.confirm)
        return summary, results
    except (RayError, ConnectionError, TuneError) as error:
        raise SearchError(f"Ray failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    finally:
        folder.files.close()
        lease.release()


def _local_cluster(plan: SweepPlan) -> Config:
    """What a cluster that is started here must hold."""
    settings = plan.sweep.sweep
    workers = settings.workers * _requested_concurrency(settings)
    cluster = {"num_workers": workers, "cpus_per_worker": settings.cpus_per_worker}
    return plan.config.model_copy(update={"cluster": plan.config.cluster.model_copy(update=cluster)})


def _request(plan: SweepPlan, error: ConfigError) -> PlacementRequest:
    """Request room for all concurrent trials."""
    settings = plan.sweep.sweep
    _logger.info(waiting_message(error, plan.config.cluster.node_wait))
    each = _worker_resources(settings, use_gpu=plan.config.train.device == "cuda")
    return PlacementRequest(each, settings.workers * _requested_concurrency(settings))


def _worker_resources(settings: SweepSettings, *, use_gpu: bool) -> dict[str, float]:
    cpus: dict[str, float] = {"CPU": settings.cpus_per_worker}
    return cpus | ({"GPU": settings.gpus_per_worker} if use_gpu else {})


def _requested_concurrency(settings: SweepSettings) -> int:
    """Concurrent trials to make room for while the cluster's size is unknown."""
    return 1 if settings.max_concurrent == "auto" else settings.max_concurrent


def concurrent_trials(
    sweep: SweepSettings, nodes: Sequence[NodeResources], *, use_gpu: bool, autoscales: bool = False
) -> int:
    """How many trials the cluster holds with all workers of each, at most `sweep.max_concurrent`.

    Args:
        sweep: Section `sweep`.
        nodes: All nodes of the cluster.
        use_gpu: Whether trials use GPUs.
        autoscales: Whether pending trials make the cluster grow: then `sweep.max_concurrent` decides.

    Raises:
        ConfigError: Not even one fits.
    """
    cpus, share = sweep.cpus_per_worker, sweep.gpus_per_worker
    rooms = [int(node.cpus // cpus) for node in nodes]
    if use_gpu:
        rooms = [min(room, int(node.gpus) * int(1 / share + 1e-9)) for room, node in zip(rooms, nodes, strict=True)]
    fit = sum(rooms) // sweep.workers
    if not fit:
        each = f"{cpus} CPU{'s' * (cpus > 1)}" + (f" and {share:g} GPU" if use_gpu else "")
        raise ConfigError(
            f"the cluster can hold {sum(rooms)} workers of {each} (it has {describe(nodes)}): no trial could start",
            key="sweep.workers",
            value=sweep.workers,
            remedy=f"use sweep.workers <= {sum(rooms)}" if sum(rooms) else "use a smaller sweep.cpus_per_worker",
        )
    if sweep.max_concurrent == "auto":
        return fit
    return sweep.max_concurrent if autoscales else min(fit, sweep.max_concurrent)


class _Search:
    """One command's part of a sweep, on a connected cluster."""

    def __init__(
        self, plan: SweepPlan, folder: SweepFolder, lease: Lease, machines: list[NodeResources], *, autoscales: bool
    ) -> None:
        self._plan, self._folder, self._settings = plan, folder, plan.sweep.sweep
        self._lease, self._driver = lease, Fence(folder.root, lease.confirm())
        self._use_gpu = count_gpus(plan.config, machines) > 0 and plan.config.train.device != "cpu"
        self._concurrency = concurrent_trials(self._settings, machines, use_gpu=self._use_gpu, autoscales=autoscales)
        hours = self._settings.budget_hours
        self._until = time.monotonic() + hours * 3600 if hours else math.inf

    def open_trials(self) -> list[int]:
        """Numbers of the configurations that have not ended."""
        return _open(self._folder.trials, len(self._plan.sampler))

    def run(self) -> ResultGrid | None:
        """Run the open trials, and return Tune's results of them."""
        plan, settings, trials = self._plan, self._settings, self._folder.trials
        total, numbers = len(plan.sampler), self.open_trials()
        counts = total, settings.seeds, total - len(numbers), self._concurrency
        _logger.info("%d configurations x %d seeds, %d done, %d at a time", *counts)
        if not numbers:
            return None
        if settings.scheduler in ("asha", "median"):  # ended trials report their rows to the scheduler
            numbers = list(range(total))
        searcher = self._searcher(numbers)
        scheduler = make_scheduler(settings, plan.space, images=plan.config.train.images, every=plan.config.eval.every)
        results = self._tune(
            self._job(trials, plan.seeds), searcher, ProgressCallback(plan, trials, self._driver), scheduler
        )
        left = len(self.open_trials())
        if left:
            _logger.warning("%d configurations have not ended; the same command resumes them", left)
        return results

    def _searcher(self, numbers: Sequence[int]) -> ReplayableSearcher:
        """Fixed draws, or Optuna with the results of the trials that have ended."""
        plan, settings, trials = self._plan, self._settings, self._folder.trials
        if settings.search != "optuna":
            return ReplayableSearcher(numbers, plan.sampler.__getitem__, trials, until=self._until)
        optuna = OptunaSampler(plan.space, seed=settings.seed, num_objectives=len(plan.metrics))

        def add(number: int) -> None:
            entry = read_entry(trials / f"{number:04d}", plan.metrics, settings)
            if entry:
                several = objectives(entry.standing, plan.metrics)
                optuna.tell(number, entry.drawn, several if len(several) > 1 else [entry.standing.score])

        for number in sorted(set(range(len(plan.sampler))) - set(self.open_trials())):
            add(number)
        return ReplayableSearcher(numbers, optuna.ask, trials, until=self._until, on_complete=add)

    def confirm(self, best: Entry) -> None:
        """Run the winner on fresh seeds, each as a trial."""
        trials, seeds = self._folder.confirm / f"{best.index:04d}", self._plan.fresh_seeds
        numbers = _open(trials, len(seeds))
        if numbers:
            _logger.info("trial %04d is the best: running it on %d fresh seeds", best.index, len(seeds))
            searcher = ReplayableSearcher(numbers, lambda _: dict(best.drawn), trials, until=self._until)
            job = self._job(trials, seeds)._replace(one_seed_each=True, from_end=False)
            self._tune(job, searcher, TrialStatusCallback(trials, self._driver), FIFOScheduler())

    def _job(self, trials: Place, seeds: Sequence[int]) -> Job:
        sweep = self._plan.sweep
        return Job(
            sweep={**resolved(sweep, {}), "base": sweep.base},
            base=self._plan.base,
            folder=trials,
            metrics=self._plan.metrics,
            seeds=tuple(seeds),
            use_gpu=self._use_gpu,
            from_end=self._settings.scheduler == "pbt",
            one_seed_each=False,
            keep=0,
            storage=str(self._folder.root / ".ray") if isinstance(trials, Path) else "",
            extension=ADDED,
            driver=self._driver,
        )

    def _tune(
        self, job: Job, searcher: ReplayableSearcher, callback: TrialStatusCallback, scheduler: Any
    ) -> ResultGrid:
        """Run the trials with Ray Tune. Raises: `search_on_ray`."""
        os.environ.update(_ENVIRONMENT)
        logging.getLogger("ray.tune").setLevel(logging.ERROR)  # warns of its missing result files
        # The workers of a group reserve their own resources; a trial without any is refused.
        resources: dict[str, float] = {"CPU": 0, "memory": 1e6}
        if self._settings.workers == 1:
            resources = _worker_resources(self._settings, use_gpu=self._use_gpu)
        search: dict[str, Any] = {
            "search_alg": searcher,
            "num_samples": len(searcher.numbers),
            "max_concurrent_trials": self._concurrency,
        }
        space: dict[str, Any] = {}
        if isinstance(scheduler, PopulationBasedTraining):  # refuses searchers, and its members take turns
            search, space = {}, {"index": tune.grid_search(searcher.numbers), "drawn": tune.sample_from(searcher.drawn)}

        names = self._plan.names  # Tune pickles what the functions below refer to

        def folder(trial: Any) -> str:
            return f"{trial.config['index']:04d}"

        def name(trial: Any) -> str:
            drawn = {} if job.from_end else json.loads(trial.config["drawn"])  # which pbt changes
            return title(trial.config["index"], drawn, names)

        files = self._folder.root / ".ray" / f"{time.time_ns()}"  # Tune never resumes an earlier attempt
        results = tune.Tuner(
            tune.with_resources(tune.with_parameters(TrialActor, job=job), resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=SCORE,
                mode="max",
                **search,
                scheduler=scheduler,
                reuse_actors=True,
                trial_name_creator=name,
                trial_dirname_creator=folder,
            ),
            run_config=tune.RunConfig(
                name=self._settings.name,
                storage_path=str(files) if isinstance(files, Path) else files.key,
                storage_filesystem=file_system(files) if isinstance(files, StorePath) else None,
                stop=_LeaseStopper(self._lease),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(
                    # 1 lets Tune copy its files of all trials at each checkpoint, in a bucket at a request each.
                    num_to_keep=None if job.from_end or isinstance(files, StorePath) else 1,
                    checkpoint_at_end=False,
                ),
                callbacks=[callback, JsonLoggerCallback()],  # `ResultGrid.get_dataframe` reads its files
                verbose=0,
            ),
        ).fit()
        if problem := self._lease.problem() or self._driver.problem():
            raise problem
        if isinstance(files, StorePath):
            lost = [cause for cause in map(root_cause, results.errors) if is_lost(cause)]
            if lost:
                message = f"{len(lost)} trials could not be stored; the same command resumes them: {lost[0]}"
                raise SearchError(message) from lost[0]
        return results


class _LeaseStopper(tune.Stopper):
    """Ends the search when another process has taken the sweep over (Ray's protocol).

    Args:
        lease: This process's; a copy of this object, such as Tune pickles, has none.
    """

    def __init__(self, lease: Lease | None = None) -> None:
        self._lease = lease

    def __reduce__(self) -> tuple[type["_LeaseStopper"], tuple[()]]:
        return _LeaseStopper, ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No: trials end by themselves."""
        return False

    def stop_all(self) -> bool:
        """Whether the lease is lost."""
        return self._lease is not None and self._lease.problem() is not None


def _open(trials: Place, total: int) -> list[int]:
    """Numbers of the trials that have not ended."""
    ends = in_parallel(trials, lambda name: read_end(trials / name)[0], [f"{number:04d}" for number in range(total)])
    return [number for number, status in enumerate(ends) if not status]
