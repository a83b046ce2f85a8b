"""The picture of a training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hisdiff_sd as hd


def a_log(n: int, held_out: str = "", every: int = 1, val: bool = False) -> pd.DataFrame:
    epoch = np.arange(n)
    log = pd.DataFrame({"epoch": epoch, "train_loss": 0.3 + np.exp(-epoch / 10), "held_out": held_out})
    if val:
        log["val_loss"] = np.where(epoch % every == every - 1, 0.4 + (epoch / n - 0.5) ** 2, np.nan)
    return log


def lines(figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): line.get_data() for line in figure.axes[0].lines}


def test_every_left_out_slide_their_mean_and_the_choice_are_drawn(tmp_path):
    folds = [a_log(40, name, val=True) for name in ("S1", "S2")]
    folds[1]["val_loss"] += 0.1
    figure = hd.pl.loss(pd.concat([*folds, a_log(21)]), 21)
    found = lines(figure)
    assert set(found) == {
        "training error, all slides",
        "S1 left out",
        "S2 left out",
        "mean of left-out slides",
        "trained for 21 epochs",
    }
    np.testing.assert_array_equal(found["S2 left out"][0], np.arange(40) + 1)
    np.testing.assert_allclose(found["S2 left out"][1], folds[1]["val_loss"])
    np.testing.assert_allclose(found["mean of left-out slides"][1], folds[0]["val_loss"] + 0.05)
    np.testing.assert_allclose(found["training error, all slides"][1], a_log(21)["train_loss"])
    assert set(found["trained for 21 epochs"][0]) == {21}
    figure.savefig(tmp_path / "loss.png")


def test_slides_judged_now_and_then_and_for_different_lengths():
    folds = [a_log(40, "S1", every=4, val=True), a_log(24, "S2", every=4, val=True)]
    found = lines(hd.pl.loss(pd.concat([*folds, a_log(20)]), 20))
    np.testing.assert_array_equal(found["S1 left out"][0], [4, 8, 12, 16, 20, 24, 28, 32, 36, 40])
    np.testing.assert_array_equal(found["mean of left-out slides"][0], [4, 8, 12, 16, 20, 24])


def test_the_first_epochs_do_not_flatten_the_rest():
    log = a_log(100)
    log.loc[0, "train_loss"] = 1000.0
    low, high = hd.pl.loss(log, 100).axes[0].get_ylim()
    assert high < 10
    assert low < log["train_loss"].min()


@pytest.mark.parametrize("missing", ["", np.nan])
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_training_without_left_out_slides_is_drawn(n, missing, tmp_path):
    figure = hd.pl.loss(a_log(n).assign(held_out=missing), n)
    assert set(lines(figure)) == {"training error, all slides", f"trained for {n} epochs"}
    figure.savefig(tmp_path / "loss.png")


def test_the_log_that_training_writes_is_drawn(stores, panel, tmp_path):
    hd.tl.train([stores["S1"]], genes=panel, encoder="morphology", preset="small", epochs=3, out=tmp_path / "model")
    assert (tmp_path / "model" / "loss.png").stat().st_size > 5_000
    figure = hd.pl.loss(pd.read_csv(tmp_path / "model" / "log.csv"), 3)
    assert len(lines(figure)["training error, all slides"][0]) == 3
