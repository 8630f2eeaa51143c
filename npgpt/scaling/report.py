"""The report of a ladder: its models, the laws, the best sizes, and the prediction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from npgpt.diagnostics.page import Point, law_chart
from npgpt.diagnostics.report import Section
from npgpt.evaluation.metrics import Estimate
from npgpt.evaluation.result import Table
from npgpt.scaling.forecast import Prediction, find_optimum, median_compute
from npgpt.scaling.ladder import Ladder
from npgpt.scaling.laws import Fit
from npgpt.training.curve import draw_points

CURVE = 40  # points of a curve
BOUND = 0.02  # of a prediction that is called right


def describe_plan(ladder: Ladder) -> str:
    """Return the line that the command prints first."""
    rungs = ladder.rungs
    total = sum(rung.compute for rung in rungs)
    return (
        f"{ladder.path}: {len(rungs)} models of {min(r.n_parameters for r in rungs):,} to "
        f"{max(r.n_parameters for r in rungs):,} parameters, {total:.3g} FLOP together, median "
        f"{median_compute(ladder):.3g}; {ladder.text[1]:,} tokens of text"
    )


def make_report(
    ladder: Ladder,
    losses: list[float],
    fits: tuple[Fit, Fit],
    prediction: Prediction | None,
    measured: float | None,
    optimum: float | None,
) -> list[Section]:
    """Return the report; `measured` is the loss of the predicted model, if it is trained."""
    sections = [
        describe_models(ladder, losses, fits),
        describe_laws(fits),
        describe_optima(ladder, fits[1], prediction, optimum),
    ]
    if prediction:
        sections.append(describe_prediction(prediction, measured))
    sections[0].text, sections[0].picture = draw(ladder, losses, fits[0], prediction, measured)
    return sections


def describe_models(ladder: Ladder, losses: list[float], fits: tuple[Fit, Fit]) -> Section:
    """Return the table of the models: what they cost, and how far their losses are from the law."""
    rows = [
        [
            f"{rung.config.n_embd}",
            f"{rung.n_parameters:,}",
            f"{rung.n_tokens:,}",
            f"{rung.n_tokens / rung.n_parameters:.1f}",
            f"{rung.compute:.3g}",
            f"{6 * rung.n_parameters * rung.n_tokens / rung.compute:.2f}",
            f"{loss:.4f}",
            f"{error:+.2%}",
        ]
        for rung, loss, error in zip(ladder.rungs, losses, fits[1].errors, strict=True)
    ]
    columns = "width", "N", "D", "D/N", "C in FLOP", "6ND/C", "loss", "above L(N, D)"
    about = describe_plan(ladder)
    return Section("Models", [f"{about}. The loss is in nats for a token.", Table(columns, rows)])


def describe_laws(fits: tuple[Fit, Fit]) -> Section:
    """Return both laws, and their numbers with intervals."""
    parts: list[str | Table] = []
    for fit in fits:
        rows = [
            [name, f"{found.value:.4g}", f"{found.low:.4g} to {found.high:.4g}"]
            for name, found in fit.estimates().items()
        ]
        error = np.sqrt(np.mean(fit.errors**2))
        parts += [
            f"{fit.law}, fitted to {len(fit.errors)} models; errors of {error:.2%} (root mean "
            "square).",
            Table(["", "value", "95 % interval"], rows),
        ]
    return Section("Laws", parts)


def describe_optima(
    ladder: Ladder, fit: Fit, prediction: Prediction | None, optimum: float | None
) -> Section:
    """Return the best size for some budgets, by L(N, D)."""
    computes = [median_compute(ladder), max(rung.compute for rung in ladder.rungs)]
    computes += [prediction.compute] if prediction else []
    computes += [optimum] if optimum else []
    found = [find_optimum(ladder.rule, ladder.text[0], fit.law, each) for each in computes]
    rows = [
        [
            f"{best.compute:.3g}",
            f"{best.width}",
            f"{best.n_parameters:,}",
            f"{best.n_tokens:,.0f}",
            f"{best.n_tokens / best.n_parameters:.1f}",
            f"{best.loss:.4f}",
        ]
        for best in found
    ]
    columns = "C in FLOP", "width", "N", "D", "D/N", "loss by L(N, D)"
    return Section("Best sizes", [Table(columns, rows)])


def describe_prediction(prediction: Prediction, measured: float | None) -> Section:
    """Return the prediction, and how it compares with what was measured."""
    about = (
        f"A model of width {prediction.width}, {prediction.n_parameters:,} parameters and "
        f"{prediction.n_tokens:,} tokens costs {prediction.compute:.3g} FLOP: "
        f"{prediction.factor:g} times the median of the ladder."
    )
    rows = []
    for law, found in prediction.losses.items():
        row = [law, f"{found.value:.4f}", f"{found.low:.4f} to {found.high:.4f}"]
        rows.append(row + ([] if measured is None else compare(found, measured)))
    if measured is None:
        return Section("Prediction", [about, Table(["law", "loss", "95 % interval"], rows)])
    columns = ["law", "predicted", "95 % interval", "error", f"within {BOUND:.0%}", "in interval"]
    about += f" Its loss was measured after the prediction: {measured:.4f}."
    return Section("Prediction", [about, Table(columns, rows)])


def compare(found: Estimate, measured: float) -> list[str]:
    """Return the error of a prediction, and whether it was right."""
    error = found.value / measured - 1
    is_right = abs(error) <= BOUND, found.low <= measured <= found.high
    return [f"{error:+.2%}", *("yes" if each else "no" for each in is_right)]


def draw(
    ladder: Ladder,
    losses: list[float],
    fit: Fit,
    prediction: Prediction | None,
    measured: float | None,
) -> tuple[str, str]:
    """Return the losses of the models against C, and L(C), as text and as a picture."""
    models = {(rung.compute, loss): rung for rung, loss in zip(ladder.rungs, losses, strict=True)}
    later = [] if not prediction or measured is None else [(prediction.compute, measured)]
    computes = [compute for compute, _ in models]
    first, last = min(computes), max(computes + ([prediction.compute] if prediction else []))
    xs = np.geomspace(first, last, CURVE).tolist()
    band = [fit.predict(C=x) for x in xs]
    points = [
        Point(*place, f"width {rung.config.n_embd}, {place[0]:.3g} FLOP: {place[1]:.4f}")
        for place, rung in models.items()
    ]
    predicted = [Point(*place, f"predicted model: {place[1]:.4f}") for place in later]
    axis = "C in FLOP"
    picture = law_chart(points, predicted, xs, band, axis, "loss against training compute")
    signs = {
        ".": [(x, found.value) for x, found in zip(xs, band, strict=True)],
        "o": [*models],
        "x": later,
    }
    width = np.log(last / first)
    shares = {
        sign: [(float(np.log(x / first) / width), loss) for x, loss in places]
        for sign, places in signs.items()
    }
    legend = "loss:  . L(C)  o models" + ("  x predicted model" if later else "")
    return draw_points(shares, (f"{first:.2g}", f"{last:.2g} FLOP"), legend), picture


def summarize(section: Section) -> str:
    """Return a section for the terminal."""
    parts: Sequence[object] = [section.title, *section.parts, section.text]
    return "\n\n".join(str(part) for part in parts if part)
