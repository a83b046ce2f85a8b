"""Commands that go the whole way: run, train-published, demo."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hisdiff_sd._cli import _options as options
from hisdiff_sd._cli._experiment import Experiment, as_toml, experiment_of, read_experiment
from hisdiff_sd._cli._output import emit, plain, records, say
from hisdiff_sd._cli._steps import STEPS, Run, Step
from hisdiff_sd._errors import MissingFileError, check_one_of


class EncoderName(StrEnum):
    """Encoders of the demo."""

    morphology = "morphology"
    uni = "uni"


class TargetName(StrEnum):
    """Targets of the demo."""

    log2 = "log2"
    cp10k = "cp10k"


def run(
    file: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The experiment.", show_default=False)],
    until: Annotated[str, typer.Option(help=f"The last step: {', '.join(STEPS)}.")] = STEPS[-1],
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Do a whole experiment, as a file describes it.

    The steps are convert, embed, genes, train, predict, evaluate, report. Steps that are done are skipped, so that the
    same command goes on after an interruption. What a file says is in docs/cli.md.

    For example:
      hisdiff-sd run experiment.toml --dry-run
      hisdiff-sd run experiment.toml
      hisdiff-sd run experiment.toml --until train --json
    """
    check_one_of(until, STEPS, "step")
    _go(read_experiment(file), until, overwrite=overwrite, dry_run=dry_run, as_json=json, command="run")


def train_published(
    data_path: Annotated[Path, typer.Option("--data_path", help="Folder in HEST layout, with processed_data/.")],
    slide_out: Annotated[str, typer.Option("--slide_out", help="Id of the slide that is held out; several: A,B.")],
    results_dir: Annotated[Path, typer.Option("--results_dir", help="Folder for stores, genes and model.")],
    expr_name: Annotated[str, typer.Option("--expr_name", help="Name of the experiment.")] = "Her2st",
    gene_list: Annotated[
        str, typer.Option("--gene_list", help="File in processed_data/, a gene a line.")
    ] = "selected_gene_list.txt",
    slidename_list: Annotated[
        str, typer.Option("--slidename_list", help="File in processed_data/ with an id a line; all slides without it.")
    ] = "all_slide_lst.txt",
    total_epochs: Annotated[int, typer.Option("--total_epochs", help="Length of the training.")] = 2000,
    device: options.Device = "auto",
    encoder: options.Encoder = "uni",
    weights: options.Weights = None,
    preset: options.Preset = "published",
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Train with the arguments of the published train.py.

    Slides are converted and embedded first, as the published notebook does; the model is RESULTS_DIR/model. --dry-run
    prints the same as a file for `hisdiff-sd run`.

    For example:
      hisdiff-sd train-published --data_path hest1k_datasets/Her2st --slide_out SPA148 --results_dir results/SPA148
    """
    processed = data_path / "processed_data"
    values: dict[str, Any] = {
        "name": expr_name,
        "out": str(results_dir),
        "device": device,
        "data": {"source": str(data_path), "test": options.listed(slide_out)},
        "embed": {"encoder": encoder},
        "train": {"preset": preset, "epochs": total_epochs},
    }
    if weights is not None:
        values["embed"]["weights"] = str(weights)
    slides = _given_or_default(processed / slidename_list, "all_slide_lst.txt")
    if slides is not None:
        values["data"]["slides"] = slides.read_text(encoding="utf-8").split()
    genes = _given_or_default(processed / gene_list, "selected_gene_list.txt")
    if genes is not None:
        values["genes"] = {"file": str(genes)}
    else:
        say(f"no {processed / gene_list}: genes are chosen on the training slides")
    experiment = experiment_of(values, Path())
    if dry_run and not json:
        typer.echo(as_toml(experiment, Path()))
    _go(experiment, "train", overwrite=overwrite, dry_run=dry_run, as_json=json, command="train-published")


def demo(
    hest: Annotated[
        Path | None, typer.Option(help="A folder of slides in HEST layout; by default synthetic slides are made.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Id of the slide that is held out; the last one by default.")] = None,
    encoder: Annotated[
        EncoderName, typer.Option(help="Tile encoder; 'uni' needs accepted terms on the Hugging Face hub.")
    ] = EncoderName.morphology,
    weights: options.Weights = None,
    target: Annotated[
        TargetName, typer.Option(help="log2(count + 1), or log(1 + counts per 10,000).")
    ] = TargetName.log2,
    out: Annotated[Path, typer.Option(help="Folder for stores, model, figures and report.")] = Path("hisdiff_sd_demo"),
    seed: options.Seed = 0,
) -> None:
    """Go the whole way once, from slides to a report.

    Slides are converted, all but one are trained on, that one is predicted, judged and drawn. Stores and embeddings that
    are in --out already are used, and so is a model of the same slides and settings; an interrupted training goes on.

    For example:
      hisdiff-sd demo
      hisdiff-sd demo --hest hest_data --test SPA148 --out results
    """
    from hisdiff_sd._demo import run_demo

    report = run_demo(
        out,
        hest=hest,
        test=test,
        encoder=encoder.value,
        weights=weights,
        target=target.value,
        seed=seed,
        say=typer.echo,
    )
    typer.echo(f"\nReport: {report}")


def _go(experiment: Experiment, until: str, *, overwrite: bool, dry_run: bool, as_json: bool, command: str) -> None:
    """Run or list the steps, and print what came of it."""
    work = Run(experiment, overwrite=overwrite)
    held_out, trained = ", ".join(experiment.data.test), ", ".join(work.training)
    say(f"{experiment.name}: held out {held_out}; trained on {trained}; results in {experiment.out}")
    steps = work.plan(until) if dry_run else work.go(until)
    result: dict[str, Any] = {"command": command, "name": experiment.name, "out": str(experiment.out)}
    result |= {"dry_run": dry_run, "steps": [asdict(step) for step in steps]}
    text = _steps_text(steps)
    if not dry_run and until in STEPS[STEPS.index("evaluate") :]:
        scores = work.scores()
        if scores is not None:
            result["scores"] = records(scores)
            text += "\n\n" + plain(scores)
    emit(result, text, as_json)


def _steps_text(steps: list[Step]) -> str:
    return "\n".join(f"{step.step:<9}{step.status:<9}{step.made}" for step in steps)


def _given_or_default(path: Path, default: str) -> Path | None:
    """A file that is there; None if it is not, unless it was named."""
    if path.is_file():
        return path
    if path.name != default:
        raise MissingFileError(f"no file {path}")
    return None
