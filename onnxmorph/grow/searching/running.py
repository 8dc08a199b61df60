"""The search: candidates are grown from the best so far, trained for a little while, judged, and kept as files."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import math
import os
import shutil
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import TrialState

from onnxmorph import model as files
from onnxmorph._ir import ir
from onnxmorph.errors import ModelError, NotEquivalent, OnnxMorphError, Refusal, SelectionError
from onnxmorph.graph.summary import summarise
from onnxmorph.grow.data import Data
from onnxmorph.grow.evolution.weights import fresh
from onnxmorph.grow.fitting import fit
from onnxmorph.grow.loop import Diverged, Epoch, Fitted, Progress
from onnxmorph.grow.scoring import held_back, mark_of
from onnxmorph.grow.searching.distance import Descriptor, describe
from onnxmorph.grow.searching.leaderboard import Candidate, write_leaderboard
from onnxmorph.grow.searching.moves import Recipe, grow
from onnxmorph.grow.searching.sampling import EditSampler, Known, Proposal, choose, space
from onnxmorph.records import as_json, content_hash

__all__ = ["SEARCH_KEY", "Budget", "Candidate", "Found", "search"]

SEARCH_KEY = "onnxmorph.search"
"""Metadata of a candidate: its number and that of the one it grew from."""

_STUDY = "onnxmorph"
_NAMELESS = 120.0
"""Seconds after which a training that nobody has put a name to is that of a worker that died at once."""
_IN_VAIN = 5
"""After so many candidates in a row that came to nothing, it ends."""


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost; ``None``: anything.

    Attributes:
        parameters: Numbers in its stored weights.
        latency: Milliseconds of one run of one sample in ONNX Runtime, on one thread of this machine's CPU.
    """

    parameters: int | None = None
    latency: float | None = None


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: The best candidate.
        candidates: All that were made, the best first, those that were given up after those that were not.
        folder: Where their files are.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    folder: Path


def search(
    model: ir.Model | str | os.PathLike[str],
    data: Data,
    folder: str | os.PathLike[str],
    *,
    validation: Data | float = 0.2,
    trials: int | None = None,
    hours: float | None = None,
    sampler: Literal["edit", "tpe", "random"] = "edit",
    objective: Literal["loss", "accuracy"] = "loss",
    budget: Budget | None = None,
    most_moves: int = 2,
    prune: bool = True,
    inherit: bool = True,
    storage: str | None = None,
    verify: bool = True,
    seed: int = 0,
    told: Callable[[Candidate], None] | None = None,
    **settings: Any,
) -> Found:
    """Search for a network that does better on the user's data, by morphs of a given one.

    The model that is given is trained first. Each further candidate is grown from one of those before by a few morphs,
    so that it starts with what that one has learned, and is trained on for as many epochs.

    Args:
        model: To start from; left as it is.
        data: See `onnxmorph.grow.data.read_samples`.
        folder: Where candidates, journal and leaderboard go. A search that was interrupted, at any moment, goes on from
            there; several workers may share one.
        validation: Data that candidates are judged by, or the share of ``data`` to hold back for that.
        trials: Candidates in all, those of earlier runs and those that were given up included. Workers finish what they
            have begun, so that several may end with a few more.
        hours: Or time of this run; the training under way is finished.
        sampler: ``edit`` is ours; ``tpe`` and ``random`` are optuna's.
        objective: What of the validation is made small: its loss, or the share of wrong classes.
        budget: What a candidate may cost.
        most_moves: Morphs from one candidate to the next.
        prune: Give up a candidate that is worse, after some epoch, than the median of those before was there.
        inherit: ``False`` trains each candidate from fresh weights: to compare with.
        storage: Address of a database for workers on several machines (``postgresql://...``); default: a journal file
            in ``folder``. The folder must be shared all the same.
        verify: Show in ONNX Runtime that each candidate computes what it was grown from, before it is trained.
        seed: Of all that is random.
        told: Called after each candidate.
        settings: Of `fit`: ``epochs``, ``rate``, ``loss`` and so on.

    Raises:
        ModelError: A file cannot be read or written.
        Refusal: The folder holds another search (``other-search``); no candidate could be made (``no-candidate``); see
            also `fit`.
        NotEquivalent: A candidate does not compute what it was grown from: a fault of ours, and the search ends.
        SelectionError: Contradictory settings.
        Interrupted: By the keyboard; the same call goes on.
    """
    if trials is None and hours is None:
        raise SelectionError("give a number of trials, or hours")
    if sampler not in ("edit", "tpe", "random"):
        raise SelectionError(f"no sampler is called {sampler!r}; there are edit, tpe and random")
    if objective not in ("loss", "accuracy"):
        raise SelectionError(f"objective is {objective!r}; there are loss and accuracy")
    given = model if isinstance(model, ir.Model) else files.load(model)
    limits = budget or Budget()
    key = {
        "model": content_hash(given),
        "data": [mark_of(data), mark_of(validation)],
        "objective": objective,
        "budget": [limits.parameters, limits.latency],
        "inherit": inherit,
        "settings": {name: str(value) for name, value in settings.items() if name not in ("device", "callbacks")},
    }
    place = Path(folder)
    pictures = {name: settings[name] for name in ("mean", "std", "image_size") if name in settings}
    if isinstance(validation, float):
        data, validation = held_back(given, data, validation, seed, **pictures)
    run = _Run(given, data, validation, place, limits, objective, inherit, verify, seed, dict(settings), most_moves)
    run.open(storage, sampler, prune, key)
    ends = None if hours is None else time.monotonic() + hours * 3600
    in_vain = 0
    while (trials is None or run.count() < trials) and (ends is None or time.monotonic() < ends):
        candidate = run.next()
        in_vain = 0 if candidate is not None else in_vain + 1
        if in_vain == _IN_VAIN:
            if not run.candidates():
                raise Refusal(f"no candidate could be made: {run.last_failure}", code="no-candidate")
            break
        if candidate is not None:
            run.report()
            if told is not None:
                told(candidate)
    candidates = run.report()
    if not candidates:
        raise Refusal("there was time for no candidate", code="no-candidate")
    return Found(candidates[0], tuple(candidates), place)


@dataclass
class _Run:
    """One worker."""

    given: ir.Model
    data: Data
    validation: Data
    folder: Path
    budget: Budget
    objective: str
    inherit: bool
    verify: bool
    seed: int
    settings: dict[str, Any]
    most_moves: int
    last_failure: str = ""

    def open(self, storage: str | None, sampler: str, prune: bool, key: Mapping[str, Any]) -> None:
        """Open the study, made if it is not there; take up what a worker that died here left behind."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            (self.folder / "candidates").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{self.folder}: cannot be made: {error.strerror}") from error
        self.edit = (
            EditSampler(self.known, self.tried, self.fits, most_moves=self.most_moves, seed=self.seed)
            if sampler == "edit"
            else None
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study = self._study(storage, sampler, prune)
        said = self.study.user_attrs.get("search")
        mark = json.loads(as_json(key))
        if said is None:
            self.study.set_user_attr("search", mark)
        elif said != mark:
            differs = next((name for name in mark if said.get(name) != mark[name]), "its settings")
            raise Refusal(
                f"{self.folder} holds another search: {differs} differs",
                way_out="name another folder",
                code="other-search",
            )
        self._take_up()

    def _study(self, storage: str | None, sampler: str, prune: bool) -> optuna.Study:
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        try:
            if storage is None:
                journal = str(self.folder / "journal.log")
                # Optuna locks by a symbolic link, which Windows has only for administrators.
                lock = JournalFileOpenLock(journal) if os.name == "nt" else None
                backend = JournalFileBackend(journal, lock_obj=lock)
                kept: Any = optuna.storages.JournalStorage(backend)
            else:
                kept = optuna.storages.RDBStorage(storage)
            # Optuna's own samplers would draw the same again after a restart.
            done = sum(
                1 for study in kept.get_all_studies() for _ in kept.get_all_trials(study._study_id, deepcopy=False)
            )
            own: optuna.samplers.BaseSampler
            if self.edit is not None:
                own = self.edit
            elif sampler == "tpe":
                own = optuna.samplers.TPESampler(seed=self.seed + done, n_startup_trials=4)
            else:
                own = optuna.samplers.RandomSampler(seed=self.seed + done)
            pruner = (
                optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
                if prune
                else optuna.pruners.NopPruner()
            )
            return optuna.create_study(
                storage=kept, study_name=_STUDY, sampler=own, pruner=pruner, direction="minimize", load_if_exists=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ModelError(
                f"the journal of the search cannot be read: {' '.join(str(error).split())[:200]}"
            ) from error
        except Exception as error:  # whatever a database raises
            if storage is None:
                raise
            raise ModelError(f"{storage}: {' '.join(str(error).split())[:200]}") from error

    def _take_up(self) -> None:
        """Trials of workers of this machine that are gone: ended, and put into the queue once more."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is None and _age(trial) < _NAMELESS:
                continue  # its worker is just about to write its name
            if worker is not None and not _is_gone(str(worker)):
                continue
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
                continue  # another worker was faster
            recipe = trial.user_attrs.get("recipe")
            if recipe is not None:
                self.study.enqueue_trial(trial.params, user_attrs={"recipe": recipe})

    # --- what is known ---

    def candidates(self) -> list[Candidate]:
        """All candidates, the best first, those that were given up last."""
        found = []
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            told = trial.user_attrs.get("candidate")
            if told is not None:
                found.append(Candidate.from_json(told))
        return sorted(found, key=lambda one: (one.given_up, one.value, one.number))

    def known(self) -> list[Known]:
        """Candidates that were trained to the end, the best first."""
        return [
            Known(one.number, one.value, Descriptor.from_json(one.descriptor), self._loader(one.number))
            for one in self.candidates()
            if not one.given_up
        ]

    def tried(self) -> frozenset[Descriptor]:
        """Candidates that need not be made: those that were, given up or not, and those under way."""
        found = [
            trial.user_attrs.get("descriptor") for trial in self.study.get_trials(deepcopy=False) if _counts(trial)
        ]
        return frozenset(Descriptor.from_json(one) for one in found if one is not None)

    def count(self) -> int:
        """Candidates that were made."""
        return len(self.candidates())

    def _loader(self, number: int) -> Callable[[], ir.Model]:
        return lambda: files.load(self._path(number))

    def _path(self, number: int) -> Path:
        return self.folder / "candidates" / f"{number:04d}.onnx"

    def fits(self, model: ir.Model) -> bool:
        """Whether a model is within the budget."""
        if self.budget.parameters is not None and _parameters(model) > self.budget.parameters:
            return False
        return self.budget.latency is None or self._latency(model) <= self.budget.latency

    # --- one candidate ---

    def next(self) -> Candidate | None:
        """Make, train and keep one more candidate; ``None`` where it came to nothing."""
        trial = self.study.ask(space(self.most_moves))
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        started = time.monotonic()
        try:
            proposal = self._proposal(trial)
            if proposal is None:
                self.last_failure = "no move is left that is within the budget and was not tried"
                self.study.tell(trial, state=TrialState.FAIL)
                return None
            trial.set_user_attr("recipe", proposal.recipe.to_json())
            trial.set_user_attr("descriptor", proposal.descriptor.to_json())
            fitted, pruned = self._train(trial, proposal)
        except NotEquivalent:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        except (Diverged, Refusal) as error:
            self.last_failure = str(error)
            trial.set_user_attr("failure", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            if proposal is not None and proposal.recipe.parent is None and isinstance(error, Refusal):
                raise  # the model that was given cannot be trained: neither can what grows from it
            return None
        candidate = self._keep(trial.number, proposal, fitted, pruned, time.monotonic() - started)
        trial.set_user_attr("candidate", candidate.to_json())
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, candidate.value)
        return candidate

    def _proposal(self, trial: optuna.Trial) -> Proposal | None:
        queued = trial.user_attrs.get("recipe")
        if queued is not None:
            recipe = Recipe.from_json(queued)
            start = self.given if recipe.parent is None else files.load(self._path(recipe.parent))
            model = grow(start, recipe.moves, seed=self.seed).model
            return Proposal(recipe, model, describe(model))
        known = self.known()
        if not known:
            return Proposal(Recipe(None), self.given, describe(self.given))
        proposed = None if self.edit is None else self.edit.proposed.pop(trial.number, None)
        if proposed is not None:
            return proposed
        return choose(trial.params, known, self.tried(), self.fits, self.seed)

    def _train(self, trial: optuna.Trial, proposal: Proposal) -> tuple[Fitted, bool]:
        recipe, model = proposal.recipe, proposal.model
        if self.verify and recipe.moves and recipe.parent is not None:
            self._check(files.load(self._path(recipe.parent)), model, recipe)
        if not self.inherit:
            model = fresh(model, self.seed + trial.number)
        pruned = False

        def watch(progress: Progress) -> bool:
            nonlocal pruned
            if progress.finished is not None:
                trial.report(self._value(progress.finished), progress.epoch)
                last = progress.epoch == progress.epochs
                pruned = recipe.parent is not None and not last and bool(trial.should_prune())
            return pruned

        mark = hashlib.sha256(f"{as_json(recipe.to_json())}{content_hash(model)}".encode()).hexdigest()[:16]
        checkpoint = self.folder / f"training-{mark}.checkpoint"
        fitted = fit(
            model,
            self.data,
            validation=self.validation,
            seed=self.seed,
            checkpoint=checkpoint,
            callbacks=[watch],
            **self.settings,
        )
        checkpoint.unlink(missing_ok=True)
        return fitted, pruned

    def _value(self, epoch: Epoch) -> float:
        if self.objective == "loss":
            return float(epoch.validation_loss if epoch.validation_loss is not None else np.inf)
        if epoch.validation_accuracy is None:
            raise Refusal("the loss has no accuracy", way_out="choose the objective loss", code="no-accuracy")
        return 1.0 - epoch.validation_accuracy

    def _check(self, parent: ir.Model, child: ir.Model, recipe: Recipe) -> None:
        from onnxmorph.verify import verify

        certificate = verify(parent, child, provider="cpu", inner=False, faults=False, time_budget=5.0)
        if not certificate.equivalent:
            what = "; ".join(recipe.texts)
            raise NotEquivalent(f"a candidate does not compute what it was grown from ({what})", certificate)

    def _keep(self, number: int, proposal: Proposal, fitted: Fitted, pruned: bool, seconds: float) -> Candidate:
        model = fitted.model
        best = fitted.history[fitted.best - 1]
        parent = proposal.recipe.parent
        model.metadata_props[SEARCH_KEY] = as_json(
            {"candidate": number, "parent": parent, "moves": list(proposal.recipe.texts)}
        )
        path = self._path(number)
        files.save(model, path, overwrite=True)
        return Candidate(
            number=number,
            parent=parent,
            value=self._value(best),
            loss=float(best.validation_loss or 0.0),
            accuracy=best.validation_accuracy,
            parameters=_parameters(model),
            latency=self._latency(model),
            moves=proposal.recipe.texts,
            given_up=pruned,
            epochs=len(fitted.history),
            seconds=seconds,
            file=str(path.relative_to(self.folder)),
            descriptor=proposal.descriptor.to_json(),
        )

    def _latency(self, model: ir.Model) -> float:
        """Milliseconds of one run: the median of a few."""
        import onnxruntime as ort

        path = self.folder / f".latency.{os.getpid()}.onnx"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        try:
            files.save(model, path, overwrite=True)
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feeds = {one.name: _ones(one.shape, one.type) for one in session.get_inputs()}
            times = []
            for _ in range(12):
                started = time.perf_counter()
                session.run(None, feeds)
                times.append(time.perf_counter() - started)
        except OnnxMorphError:
            raise
        except Exception as error:
            raise Refusal(
                f"its latency cannot be measured: {' '.join(str(error).split())[:160]}", code="no-latency"
            ) from error
        finally:
            for file in self.folder.glob(f".latency.{os.getpid()}.*"):
                file.unlink(missing_ok=True)
        return float(np.median(times[2:]) * 1e3)

    # --- what is written ---

    def report(self) -> list[Candidate]:
        """Write the leaderboard, and the best candidate as ``best.onnx``."""
        candidates = self.candidates()
        write_leaderboard(self.folder, candidates, self.objective)
        if candidates:
            best, aside = self.folder / "best.onnx", self.folder / f".best.{os.getpid()}.part"
            with contextlib.suppress(OSError):
                shutil.copyfile(self.folder / candidates[0].file, aside)
                aside.replace(best)
        return candidates


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def _age(trial: optuna.trial.FrozenTrial) -> float:
    """Seconds since a trial began."""
    began = trial.datetime_start
    return math.inf if began is None else (datetime.datetime.now() - began).total_seconds()


def _is_gone(worker: str) -> bool:
    """Whether a worker of this machine runs no more; of others nothing is known, so they are taken to be alive."""
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname():
        return False
    if int(pid) == os.getpid():
        return True
    if os.name == "nt":  # where signal 0 is not a question but Ctrl-C
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _parameters(model: ir.Model) -> int:
    totals = summarise(model).totals
    return totals.parameters if totals.stored is None else totals.stored


def _ones(shape: Sequence[int | str | None], kind: str) -> np.ndarray[Any, Any]:
    """One sample of ones; open sizes beyond the first are 1 as well."""
    names: dict[str, Any] = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    names |= {"tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
    return np.ones([size if isinstance(size, int) else 1 for size in shape], dtype=names.get(kind, np.float32))
