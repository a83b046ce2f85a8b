"""What the report of a slide lists: quality control, provenance, and the lines that make the prediction again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hisdiff_sd import _keys as keys
from hisdiff_sd._targets import UNITS

if TYPE_CHECKING:
    from hisdiff_sd._slide_report import SlideReport


def quality(report: SlideReport) -> dict[str, str]:
    """What is known of the slide; its QC has findings of its own."""
    attrs, record = report.attrs, report.record
    height, width = attrs["true_size"]
    mpp = float(attrs["mpp"])
    found = {
        "image": f"{width:,} x {height:,} px, {width * mpp / 1000:.1f} x {height * mpp / 1000:.1f} mm",
        "tissue": "not outlined" if report.tissue_mm2 is None else f"{report.tissue_mm2:.2f} mm²",
        f"{report.places} with a prediction": f"{report.n:,} of shapes {report.shapes!r}",
        "tiles that could not be read": f"{int(record.get('failed_tiles', 0)):,}",
    }
    if report.places == "tiles" and report.spacing_um is not None:
        found["distance of the tiles"] = (
            f"{report.spacing_um:.4g} µm, each predicted as a spot of {report.spot_um:.4g} µm"
        )
    size = "side of the square bins" if attrs.get("spot_shape") == "square" else "spot diameter, as declared"
    declared = {"spot_diameter_um": size, "spot_pitch_um": "distance of spots, as declared"}
    found |= {name: f"{float(attrs[k]):.4g} µm" for k, name in declared.items() if attrs.get(k)}
    if attrs.get("source"):
        found["image file"] = str(attrs["source"].get("image", "unknown"))
    return found


def made(report: SlideReport) -> dict[str, str]:
    """How the prediction came about."""
    record = report.record
    slides, licences = _nested(record.get("training_slides")), _nested(record.get("licences"))
    encoder_hash = str(record.get("encoder_hash") or "")[:12]
    side = record.get("tile_side_px")
    tile = (
        ""
        if side is None
        else f", {float(side):.4g} px ({float(side) * float(report.attrs['mpp']):.4g} µm) of the slide"
    )
    return {
        "prediction": f"table {report.table!r}, made by hisdiff_sd {record.get('version', 'of unknown version')}",
        "model": f"hash {record.get('model_hash') or 'unknown'}",
        "training slides": ", ".join(map(str, slides)) if slides else "unknown",
        "encoder": f"{record.get('encoder', 'unknown')}, hash {encoder_hash or 'unknown'}",
        "tile protocol": f"{record.get('tile', 'unknown')}{tile}, beyond its edge {record.get('padding') or 'unknown'}, "
        f"resized with {record.get('filter') or 'unknown'}",
        "target": UNITS[record["target"]],
        "sampler": f"{record.get('sampler', 'unknown')}, {record.get('steps', '?')} steps",
        "samples": f"{record.get('samples', '?')} of each place, seed {record.get('seed', '?')}",
        "licences": "; ".join(f"{what}: {licence}" for what, licence in dict(licences or {}).items()) or "unknown",
        "data set of the slide": str(report.attrs.get("dataset") or "unknown"),
    }


def code(report: SlideReport) -> str:
    """Lines of Python that make the prediction and this page again."""
    record = report.record
    asked = [f"n_samples={record.get('samples')}", f"steps={record.get('steps')}", f"seed={record.get('seed')}"]
    if report.shapes != keys.SPOTS:
        # a grid of hd.pp.tile is laid again by its spacing; other shapes have to be there
        grid = report.spacing_um is not None and report.shapes == keys.tiles_key(report.spacing_um)
        asked.insert(0, f"spacing_um={report.spacing_um:g}" if grid else f"shapes_key={report.shapes!r}")
    if record.get("genes"):
        asked.append(f"genes={_nested(record['genes'])!r}")
    if report.table != keys.prediction_key(report.shapes):
        asked.append(f"key_added={report.table!r}")
    hash_ = str(record.get("model_hash") or "unknown")[:12]
    return f"""import hisdiff_sd as hd

sdata = hd.io.open({report.store!r})
model = hd.HisDiff.load("path/of/the/model")  # model.fingerprint starts with {hash_}
hd.tl.predict(sdata, model, {", ".join(asked)})
hd.pl.report(sdata, "report.html", key={report.table!r})
"""


def _nested(value: Any) -> Any:
    """A list or dictionary that provenance keeps as JSON text."""
    return json.loads(value) if isinstance(value, str) and value else value
