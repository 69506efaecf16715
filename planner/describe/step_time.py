"""Where the step goes: seconds by kind, what hides beside them, and what the figures rest on."""

from __future__ import annotations

from meshwright.costmodel.hardware import Basis
from meshwright.planner.describe.section import Section, milliseconds, percent
from meshwright.planner.plan import Plan, PredictionRecord

TERMS = {
    "gemm": "matrix products",
    "grouped_gemm": "expert products (grouped)",
    "attention": "attention",
    "memory_bound": "norms, activations, permutations",
    "recompute": "recomputation",
    "exposed_nvlink": "communication over NVLink, exposed",
    "exposed_network": "communication over the network, exposed",
    "exposed_pcie": "offload to host memory, exposed",
    "slowdown": "compute slowed by hidden communication",
    "host": "waiting for the host to launch",
    "bubble": "bubble: waiting for other stages or ranks",
    "exposed_data_parallel": "gradient and parameter collectives, exposed",
    "optimizer": "optimizer",
}
"""Every term of a breakdown, in the order of the table."""

LINKS = {"nvlink": "NVLink", "network": "the network", "pcie": "PCIe"}
BAR_CELLS = 32
VISIBLE_FRACTION = 5e-5


def step_time_section(plan: Plan) -> Section:
    """The breakdown with its shares, then hidden communication and the basis of the figures."""
    prediction = plan.prediction
    step_s = prediction.step_time_s
    rows = tuple(
        (TERMS[name], milliseconds(time_s, step_s), percent(time_s / step_s), _bar(time_s / step_s))
        for name in shown_terms(prediction)
        for time_s in (prediction.breakdown_s[name],)
    )
    return Section(
        title="Where the step goes (mean over stages)",
        columns=("term", "ms", "of step", ""),
        rows=(*rows, ("step", milliseconds(step_s, step_s), "100.0 %", "")),
        notes=(*_hidden_notes(prediction), *_basis_notes(prediction)),
    )


def shown_terms(prediction: PredictionRecord) -> tuple[str, ...]:
    """Names of the terms that are large enough to be seen."""
    least_s = VISIBLE_FRACTION * prediction.step_time_s
    return tuple(name for name in TERMS if abs(prediction.breakdown_s.get(name, 0.0)) >= least_s)


def _bar(fraction: float) -> str:
    return "#" * round(BAR_CELLS * max(0.0, fraction))


def _hidden_notes(prediction: PredictionRecord) -> tuple[str, ...]:
    shown = [
        f"{milliseconds(hidden_s, prediction.step_time_s)} ms over {words} ({percent(share)} of it)"
        for link, words in LINKS.items()
        if (hidden_s := prediction.hidden_s.get(link, 0.0)) > 0
        for share in (hidden_s / (hidden_s + prediction.breakdown_s[f"exposed_{link}"]),)
    ]
    return (f"hidden beside computation: {', '.join(shown)}",) if shown else ()


def _basis_notes(prediction: PredictionRecord) -> tuple[str, ...]:
    basis = {name: prediction.basis.get(name, 0.0) for name in Basis}  # a file has its keys sorted
    shares = ", ".join(f"{percent(share)} {name}" for name, share in basis.items() if share > 0)
    return (f"operator times rest on hardware figures that are {shares}",) if shares else ()
