from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from hisdiff_sd.pl._figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def loss(log: pd.DataFrame, epochs: int) -> Figure:
    """Draw a training log: the noise error of each left-out slide, their mean, and the chosen length.

    Parameters
    ----------
    log
        Columns ``epoch``, ``train_loss``, ``held_out`` (empty for the last run, on all slides) and, where slides were left
        out, ``val_loss``; `hd.tl.train` writes it as ``log.csv``.
    epochs
        The chosen number of epochs.

    Examples
    --------
    >>> import tempfile, pandas as pd, hisdiff_sd as hd
    >>> folder = tempfile.mkdtemp()
    >>> root = hd.datasets.synthetic(folder + "/hest", slides=("S1",), size_um=(900, 800), mpp=1.0)
    >>> slides = [hd.io.hest(root, "S1")]
    >>> model = hd.tl.train(slides, genes=["ERBB2", "EPCAM"], encoder="morphology", epochs=2, out=folder + "/model")
    >>> figure = hd.pl.loss(pd.read_csv(folder + "/model/log.csv"), epochs=2)
    """
    figure = new_figure(figsize=(7, 4))
    axes = figure.subplots()
    log = log.assign(held_out=log["held_out"].fillna(""))
    everything = log[log["held_out"] == ""]
    axes.plot(everything["epoch"] + 1, everything["train_loss"], color="0.6", lw=1, label="training error, all slides")
    folds = log[log["held_out"] != ""]
    if "val_loss" in folds and folds["val_loss"].notna().any():
        for name, fold in folds.dropna(subset="val_loss").groupby("held_out"):
            axes.plot(fold["epoch"] + 1, fold["val_loss"], lw=1, alpha=0.6, label=f"{name} left out")
        by_slide = folds.pivot_table(index="epoch", columns="held_out", values="val_loss").dropna()
        mean = by_slide.mean(axis=1)
        axes.plot(mean.index + 1, mean, color="k", lw=2, label="mean of left-out slides")
    axes.axvline(epochs, color="tab:red", ls="--", lw=1, label=f"trained for {epochs} epochs")
    axes.set(xlabel="epoch", ylabel="squared error (of a flow: relative to a Gaussian)")
    # the first epochs are far above the rest and would flatten it
    settled = log.loc[log["epoch"] > log["epoch"].max() * 0.2]
    values = settled[[c for c in ("train_loss", "val_loss") if c in settled]].stack()
    if len(values) and values.max() > values.min():
        margin = 0.1 * (values.max() - values.min())
        axes.set_ylim(values.min() - margin, values.max() + margin)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
