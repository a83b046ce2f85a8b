"""The steps of an experiment: each says what it would do, does it, and is skipped when it is done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hisdiff_sd import _keys as keys
from hisdiff_sd._cli._app import Code
from hisdiff_sd._cli._experiment import Experiment
from hisdiff_sd._cli._files import read_panel, write_panel
from hisdiff_sd._cli._output import say
from hisdiff_sd._cli._plan import slides_of
from hisdiff_sd._cli._record import Record
from hisdiff_sd._cli._stores import elements_of, is_store, slide_of, stores_of, workers
from hisdiff_sd._cli._words import in_words_of_the_command
from hisdiff_sd._errors import HisDiffError, OtherProvenanceError, check_one_of
from hisdiff_sd._whole_file import write_text

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

STEPS = ("convert", "embed", "genes", "train", "predict", "evaluate", "report")
_TABLE, _SPOTS = f"tables/{keys.TABLE}", f"shapes/{keys.SPOTS}"


@dataclass(frozen=True)
class Step:
    """What became of a step: ``"done"``, ``"skipped"`` as there was nothing to do; what it made, in words."""

    step: str
    status: str
    made: str
    seconds: float = 0.0


class Run:
    """One run of an experiment.

    Parameters
    ----------
    experiment
        What is to be done.
    overwrite
        Replace what was made with other settings.

    Attributes
    ----------
    stores
        Path of the store of every slide, by id.
    """

    def __init__(self, experiment: Experiment, *, overwrite: bool = False) -> None:
        self.experiment = experiment
        self.overwrite = overwrite
        self.out = experiment.out.absolute()
        self.stores = self._find_stores()
        for name in experiment.data.test:
            check_one_of(name, self.stores, "slide of the experiment")
        self.training = [s for s in self.stores if s not in experiment.data.test]
        if not self.training:
            raise HisDiffError("all slides are test slides; leave some to train on")
        self.record = Record(self.out)

    def go(self, until: str = STEPS[-1]) -> list[Step]:
        """Do the steps that are not done yet, one after the other."""
        self._refuse_changes()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HisDiffError(f"cannot write to {self.out} ({error.strerror}); choose another out") from error
        steps = STEPS[: STEPS.index(until) + 1]
        done = []
        for at, name in enumerate(steps):
            say(f"[{at + 1}/{len(steps)}] {name} ...")
            start = time.perf_counter()
            status, made = getattr(self, f"_{name}")()
            done.append(Step(name, status, made, round(time.perf_counter() - start, 2)))
            say(f"[{at + 1}/{len(steps)}] {name}: {status}, {made} ({done[-1].seconds:.1f} s)")
        return done

    def plan(self, until: str = STEPS[-1]) -> list[Step]:
        """What `go` would do, by what is there; nothing is opened or written."""
        test = [self.stores[name] for name in self.experiment.data.test]
        embedded = f"tables/{keys.embedding_key(keys.SPOTS, self.experiment.embed.encoder)}"
        todo = {
            "convert": _count([is_store(p) for p in self.stores.values()], "stores"),
            "embed": _count([embedded in elements_of(p) for p in self.stores.values()], "slides"),
            "genes": self._planned("genes", self._genes_settings(), self._panel_file),
            "train": self._planned("train", self._train_settings(), self._model_folder),
            "predict": _count([f"tables/{keys.PREDICTION}" in elements_of(p) for p in test], "test slides"),
            "evaluate": self._planned("evaluate", self._evaluate_settings(), self._scores_file),
            "report": self._planned("report", self._report_settings(), *self._pages()),
        }
        plan: list[Step] = []
        for name in STEPS[: STEPS.index(until) + 1]:
            status, made = todo[name]
            # what is made of something that is still to be made is made again
            stale = any(step.status == "to do" for step in plan) and name not in ("embed", "genes")
            plan.append(Step(name, "to do" if stale else status, made))
        return plan

    def scores(self) -> pd.DataFrame | None:
        """What the step evaluate wrote, if it had anything to write."""
        import pandas as pd

        return pd.read_csv(self._scores_file) if self._scores_file.is_file() else None

    def _planned(self, step: str, settings: dict[str, Any], *made: Path) -> tuple[str, str]:
        where = str(made[0].parent if len(made) > 1 else made[0])
        if self.record.is_done(step, settings, *made):
            return "there", where
        differs = self.record.differs(step, settings)
        return "to do", f"{where}, in place of another ({differs})" if differs else where

    def _refuse_changes(self) -> None:
        """Refuse to replace a panel or a model that was made with other settings, before any work is done."""
        if self.overwrite:
            return
        for step, settings in (("genes", self._genes_settings()), ("train", self._train_settings())):
            differs = self.record.differs(step, {k: v for k, v in settings.items() if k != "panel"})
            if differs:
                raise HisDiffError(
                    f"{self.out} has been made with other settings of {step} ({differs}); give --overwrite to replace what "
                    "depends on them, or choose another out"
                )

    # the steps, in their order; each returns its status and what it made

    def _convert(self) -> tuple[str, str]:
        e = self.experiment
        if e.data.source is None:
            return "skipped", f"{len(self.stores)} stores are given"
        from hisdiff_sd import io

        with workers(e.workers) as client:
            how = asdict(e.convert)
            table = io.convert(e.data.source, self.out / "stores", samples=list(self.stores), client=client, **how)
        return _of_stores(table)

    def _embed(self) -> tuple[str, str]:
        e = self.experiment
        # a slide without spots is embedded on the grid that its prediction lays
        paths = [path for path in self.stores.values() if _SPOTS in elements_of(path)]
        return self._map(embed_again if self.overwrite else _pp("embed"), paths, **asdict(e.embed))

    def _genes(self) -> tuple[str, str]:
        found = self._choose_genes()
        panel = read_panel(self._panel_file)
        for gene in self.experiment.report.genes:  # which would be missed at the end of the work
            check_one_of(gene, panel, "gene of the panel (for [report] genes; name it in [genes] include)")
        return found

    def _choose_genes(self) -> tuple[str, str]:
        settings = self._genes_settings()
        if self.record.is_done("genes", settings, self._panel_file):
            return "skipped", str(self._panel_file)
        from hisdiff_sd import pp

        if self._panel_file.exists() and not self.record.is_mine("genes"):
            raise HisDiffError(f"{self._panel_file} exists already, and not by this experiment; choose another out")
        e = self.experiment.genes
        panel = read_panel(e.file) if e.file else pp.select_genes(self._of_training(), n_top=e.n_top, include=e.include)
        self.record.begin("genes", settings)
        write_panel(panel, self._panel_file)
        self.record.end("genes")
        return "done", f"{len(panel)} genes: {self._panel_file}"

    def _train(self) -> tuple[str, str]:
        settings = self._train_settings()
        if self.record.is_done("train", settings, self._model_folder):
            return "skipped", str(self._model_folder)
        from hisdiff_sd import tl

        e = self.experiment
        mine = self.record.is_mine("train")
        self.record.begin("train", settings)
        how = asdict(e.embed) | asdict(e.train) | {"device": e.device, "seed": e.seed}
        panel = read_panel(self._panel_file)
        model = tl.train(self._of_training(), genes=panel, out=self._model_folder, overwrite=mine, **how)
        self.record.end("train", model=model.fingerprint)
        return "done", f"{model!r}: {self._model_folder}"

    def _predict(self) -> tuple[str, str]:
        e = self.experiment
        how = {**asdict(e.predict), "model": str(self._model_folder), "weights": e.embed.weights, "seed": e.seed}
        paths = [self.stores[name] for name in e.data.test]
        return self._map(predict_again if self.overwrite else _tl("predict"), paths, **how)

    def _evaluate(self) -> tuple[str, str]:
        settings = self._evaluate_settings()
        measured = [self.stores[n] for n in self.experiment.data.test if _TABLE in elements_of(self.stores[n])]
        if not measured:
            return "skipped", "no test slide has counts"
        if self.record.is_done("evaluate", settings, self._scores_file):
            return "skipped", str(self._scores_file)
        from hisdiff_sd._cli._model import scores_of

        self.record.begin("evaluate", settings)
        write_text(self._scores_file, scores_of([str(p) for p in measured], self._model_folder).to_csv(index=False))
        self.record.end("evaluate")
        return "done", str(self._scores_file)

    def _report(self) -> tuple[str, str]:
        settings, pages = self._report_settings(), self._pages()
        if self.record.is_done("report", settings, *pages):
            return "skipped", f"{len(pages)} pages in {self.out / 'reports'}"
        from hisdiff_sd import pl

        self.record.begin("report", settings)
        (self.out / "reports").mkdir(exist_ok=True)
        for name, page in zip(self.experiment.data.test, pages, strict=True):
            pl.report(self.stores[name], page, genes=self.experiment.report.genes or None, overwrite=True)
        self.record.end("report")
        return "done", f"{len(pages)} pages in {self.out / 'reports'}"

    # what each step depends on

    def _genes_settings(self) -> dict[str, Any]:
        e = self.experiment.genes
        if e.file is not None:
            return {"file": read_panel(e.file)}
        return {"n_top": e.n_top, "include": e.include, "slides": self.training}

    def _train_settings(self) -> dict[str, Any]:
        e = self.experiment
        panel = self._panel_file.read_bytes() if self._panel_file.is_file() else b""
        tiles = {"encoder": e.embed.encoder, "tile_um": e.embed.tile_um, "padding": e.embed.padding}
        return {
            **asdict(e.train),
            **tiles,
            "seed": e.seed,
            "slides": self.training,
            "panel": hashlib.sha256(panel).hexdigest(),
        }

    def _evaluate_settings(self) -> dict[str, Any]:
        e = self.experiment
        model = self.record.found("train", "model")
        return {**asdict(e.predict), "seed": e.seed, "slides": e.data.test, "model": model}

    def _report_settings(self) -> dict[str, Any]:
        return {**self._evaluate_settings(), "genes": self.experiment.report.genes}

    @property
    def _panel_file(self) -> Path:
        return self.out / "genes.txt"

    @property
    def _model_folder(self) -> Path:
        return self.out / "model"

    @property
    def _scores_file(self) -> Path:
        return self.out / "evaluation.csv"

    def _pages(self) -> list[Path]:
        return [self.out / "reports" / f"{name}.html" for name in self.experiment.data.test]

    def _of_training(self) -> list[Path]:
        return [self.stores[name] for name in self.training]

    def _find_stores(self) -> dict[str, Path]:
        data = self.experiment.data
        if data.source is not None:
            names = slides_of(data.source, data.slides or None)
            return {name: self.out / "stores" / f"{name}.zarr" for name in names}
        found: dict[str, Path] = {}
        for path in stores_of([str(p) for p in data.stores]):
            if slide_of(path) in found:
                raise HisDiffError(f"{path} and {found[slide_of(path)]} are of the same slide; give one of them")
            found[slide_of(path)] = Path(path)
        return {check_one_of(n, found, "slide among the stores"): found[n] for n in data.slides or found}

    def _map(self, function: Callable[..., Any], paths: list[Path], **how: Any) -> tuple[str, str]:
        from hisdiff_sd import map_stores

        e = self.experiment
        how |= {} if e.device == "auto" else {"device": e.device}
        with workers(e.workers) as client:
            return _of_stores(map_stores(function, paths, client=client, **how))


def embed_again(sdata: SpatialData, **how: Any) -> None:
    """`hd.pp.embed`, in place of a table that was made in another way."""
    _again(_pp("embed"), sdata, how)


def predict_again(sdata: SpatialData, **how: Any) -> None:
    """`hd.tl.predict`, in place of a table that was made in another way."""
    _again(_tl("predict"), sdata, how)


def _again(function: Callable[..., Any], sdata: SpatialData, how: dict[str, Any]) -> None:
    try:
        function(sdata, **how)
    except OtherProvenanceError:
        function(sdata, **how, overwrite=True)


def _pp(name: str) -> Callable[..., Any]:
    from hisdiff_sd import pp

    return getattr(pp, name)  # type: ignore[no-any-return]


def _tl(name: str) -> Callable[..., Any]:
    from hisdiff_sd import tl

    return getattr(tl, name)  # type: ignore[no-any-return]


def _of_stores(table: pd.DataFrame) -> tuple[str, str]:
    """Status of a step on many stores; if some failed, the run ends here: the next steps would lack them."""
    failed = table[table["status"] == "failed"]
    for store, error in zip(failed["store"], failed["error"], strict=True):
        say(f"  {store}: {in_words_of_the_command(error)}")
    if len(failed):
        say(f"{len(failed)} of {len(table)} slides failed. Mend what is said, and run the same command again to go on.")
        raise typer.Exit(Code.SOME_FAILED)
    done = int((table["status"] == "done").sum())
    if not done:
        return "skipped", f"{len(table)} slides were done before"
    return "done", f"{done} of {len(table)} slides" + ", the others were done before" * (done < len(table))


def _count(there: list[bool], what: str) -> tuple[str, str]:
    return ("there" if all(there) else "to do"), f"{sum(there)} of {len(there)} {what} are there"
